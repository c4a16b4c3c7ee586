//! A context on standard input: a tar archive, or just a Dockerfile.
//!
//! Which of them it is shows in the first bytes. They are put back in front of the rest; the
//! stream is never gathered in memory.

use std::io::{self, Cursor, Read};

/// What standard input holds.
pub enum StdinContent {
    /// A tar archive, compressed or not.
    Archive(Box<dyn Read + Send>),
    /// Anything else: the text of a Dockerfile.
    Dockerfile(Box<dyn Read + Send>),
}

/// A tar header's length.
const BLOCK: usize = 512;
const COMPRESSED: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];

/// Looks at the beginning of `input`.
///
/// # Errors
/// When it can't be read.
pub fn recognise(mut input: impl Read + Send + 'static) -> io::Result<StdinContent> {
    let mut head = Vec::with_capacity(BLOCK);
    input.by_ref().take(BLOCK as u64).read_to_end(&mut head)?;
    let archive = is_archive(&head);
    let whole = Box::new(Cursor::new(head).chain(input));
    Ok(if archive {
        StdinContent::Archive(whole)
    } else {
        StdinContent::Dockerfile(whole)
    })
}

fn is_archive(head: &[u8]) -> bool {
    COMPRESSED.iter().any(|magic| head.starts_with(magic)) || is_tar_header(head)
}

/// A tar header carries a sum of its bytes, counted with blanks in place of the sum itself
/// (POSIX.1 pax, "ustar Interchange Format"). An empty archive is blocks of zeros.
fn is_tar_header(head: &[u8]) -> bool {
    let Ok(block) = <&[u8; BLOCK]>::try_from(head) else {
        return false;
    };
    if block.iter().all(|&byte| byte == 0) {
        return true;
    }
    let field = &block[148..156];
    let digits: String = field
        .iter()
        .map(|&byte| char::from(byte))
        .skip_while(|c| *c == ' ')
        .take_while(|c| c.is_digit(8))
        .collect();
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    let own: u64 = field.iter().map(|&byte| u64::from(byte)).sum();
    u64::from_str_radix(&digits, 8) == Ok(sum - own + 8 * u64::from(b' '))
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
        for magic in COMPRESSED {
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
