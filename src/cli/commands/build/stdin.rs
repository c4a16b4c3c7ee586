//! A context on standard input: a tar archive, or just a Dockerfile.
//!
//! Which of them it is shows in the first bytes. They are put back in front of the rest; the
//! stream is never gathered in memory.

use std::io::{self, Cursor, Read};

use crate::context::stream::{HEAD, is_archive};

/// What standard input holds.
pub enum StdinContent {
    /// A tar archive, compressed or not.
    Archive(Box<dyn Read + Send>),
    /// Anything else: the text of a Dockerfile.
    Dockerfile(Box<dyn Read + Send>),
}

/// Looks at the beginning of `input`.
///
/// # Errors
/// When it can't be read.
pub fn recognise(mut input: impl Read + Send + 'static) -> io::Result<StdinContent> {
    let mut head = Vec::with_capacity(HEAD);
    input.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    let archive = is_archive(&head);
    let whole = Box::new(Cursor::new(head).chain(input));
    Ok(if archive {
        StdinContent::Archive(whole)
    } else {
        StdinContent::Dockerfile(whole)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_dockerfile(bytes: &[u8]) -> bool {
        let (content, mut reader) = match recognise(Cursor::new(bytes.to_vec())).unwrap() {
            StdinContent::Archive(reader) => (false, reader),
            StdinContent::Dockerfile(reader) => (true, reader),
        };
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, bytes, "nothing may be lost");
        content
    }

    fn tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        header.set_cksum();
        builder
            .append_data(&mut header, "Dockerfile", &b"FROM "[..])
            .unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn archives_are_recognised() {
        assert!(!is_dockerfile(&tar()));
        assert!(!is_dockerfile(&[0; 1024]));
        for magic in [&b"\x1f\x8b"[..], b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"] {
            assert!(!is_dockerfile(&[magic, b"rest"].concat()));
        }
    }

    #[test]
    fn text_is_a_dockerfile() {
        assert!(is_dockerfile(b""));
        assert!(is_dockerfile(b"FROM scratch\n"));
        assert!(is_dockerfile(&b"# a long comment\n".repeat(1000)));
        let mut broken = tar();
        broken[0] ^= 1;
        assert!(is_dockerfile(&broken));
    }
}
