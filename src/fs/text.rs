//! Small text files of the user's own, such as configuration. For files in a root that somebody
//! else made there is [`Root`](super::Root).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The text of a file of at most `limit` bytes. `None` where there is no such file, or nothing but
/// white space in it: that is what `touch` and some CI systems leave.
///
/// # Errors
/// When it can't be read, is larger or not UTF-8.
pub fn read_if_there(path: &Path, limit: u64) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(limit.saturating_add(1))
        .read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        let large = format!("it is larger than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, large));
    }
    Ok((!text.trim().is_empty()).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_none_and_too_much_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert_eq!(read_if_there(&path, 4).unwrap(), None);
        assert_eq!(read_if_there(&path.join("below"), 4).unwrap(), None);
        for (content, read) in [(" \n", None), ("text", Some("text".to_owned()))] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(read_if_there(&path, 4).unwrap(), read);
            assert_eq!(read_if_there(&path.join("below"), 4).unwrap(), None);
        }
        let error = read_if_there(&path, 3).unwrap_err();
        assert_eq!(error.to_string(), "it is larger than 3 bytes");
    }
}
