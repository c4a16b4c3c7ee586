//! The messages of the agent protocol (RFC draft `draft-ietf-sshm-ssh-agent`), as far as a step may
//! send them: listing keys and having something signed. Everything else is answered with a failure.
//!
//! Both sides may be hostile: sizes are bounded before anything is reserved.

use std::io::{self, Read, Write};

use super::identity::Identity;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// The longest message, in bytes: that of OpenSSH.
const MAX_MESSAGE: u32 = 256 << 10;

/// Reads one message; `None` at the end of the connection.
pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_be_bytes(length);
    if length == 0 || length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = Vec::new();
    let read = from.take(u64::from(length)).read_to_end(&mut message)?;
    if read as u64 != u64::from(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(message))
}

/// Writes one message.
pub(super) fn write(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(message.len() + 4);
    put_string(&mut bytes, message);
    to.write_all(&bytes)
}

/// Serves one connection: `ask` answers those requests that a step may make.
pub(super) fn serve(
    step: &mut (impl Read + Write),
    mut ask: impl FnMut(&[u8]) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    while let Some(request) = read(step)? {
        let answer = match request.first() {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => ask(&request)?,
            _ => vec![FAILURE],
        };
        write(step, &answer)?;
    }
    Ok(())
}

/// Answers a request with the help of keys.
pub(super) fn answer(keys: &[Identity], request: &[u8]) -> Vec<u8> {
    match request.split_first() {
        Some((&REQUEST_IDENTITIES, _)) => {
            let mut answer = vec![IDENTITIES_ANSWER];
            answer.extend((keys.len() as u32).to_be_bytes());
            for key in keys {
                put_string(&mut answer, key.public());
                put_string(&mut answer, key.comment().as_bytes());
            }
            answer
        }
        Some((&SIGN_REQUEST, body)) => sign(keys, body).unwrap_or_else(|| vec![FAILURE]),
        _ => vec![FAILURE],
    }
}

fn sign(keys: &[Identity], body: &[u8]) -> Option<Vec<u8>> {
    let mut body = Fields(body);
    let (public, data, flags) = (body.string()?, body.string()?, body.number()?);
    let key = keys.iter().find(|key| key.public() == public)?;
    let mut answer = vec![SIGN_RESPONSE];
    put_string(&mut answer, &key.sign(data, flags)?);
    Some(answer)
}

/// What is left of a message or of a key.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// So many bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of four bytes.
    pub(super) fn number(&mut self) -> Option<u32> {
        let bytes = self.bytes(4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    /// Bytes with their count in front.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.bytes(usize::try_from(length).ok()?)
    }
}

/// Adds bytes with their count in front.
pub(super) fn put_string(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u32).to_be_bytes());
    to.extend(bytes);
}

/// Adds a number that is not negative, given by its bytes, highest first.
pub(super) fn put_integer(to: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = without_zeros(bytes);
    let sign = bytes.first().is_some_and(|first| first & 0x80 != 0);
    to.extend((bytes.len() as u32 + u32::from(sign)).to_be_bytes());
    if sign {
        to.push(0);
    }
    to.extend(bytes);
}

/// A number's bytes without the zeros in front.
pub(super) fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A connection: what comes, and what was answered.
    struct Both(Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Both {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Both {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn answers(requests: &[&[u8]]) -> (io::Result<()>, Vec<Vec<u8>>) {
        let mut sent = Vec::new();
        for request in requests {
            put_string(&mut sent, request);
        }
        let mut connection = Both(Cursor::new(sent), Vec::new());
        let served = serve(&mut connection, |request| Ok(vec![b'a', request[0]]));
        let mut answered = Cursor::new(connection.1);
        let mut answers = Vec::new();
        while let Some(answer) = read(&mut answered).unwrap() {
            answers.push(answer);
        }
        (served, answers)
    }

    #[test]
    fn listing_and_signing_are_passed_on_and_nothing_else() {
        for request in 0..=u8::MAX {
            let expected = match request {
                REQUEST_IDENTITIES | SIGN_REQUEST => vec![b'a', request],
                _ => vec![FAILURE],
            };
            assert_eq!(answers(&[&[request, 1, 2]]).1, [expected], "{request}");
        }
        assert_eq!(answers(&[&[11], &[17], &[13]]).1.len(), 3);
    }

    #[test]
    fn a_message_is_as_long_as_it_says_and_not_longer_than_the_limit() {
        for (bytes, is_end) in [
            (&b""[..], true),
            (b"\0\0", true),
            (b"\0\0\0\0", false),
            (b"\0\0\0\x05abc", false),
            (b"\xff\xff\xff\xff", false),
            (b"\0\x04\0\x01", false),
        ] {
            match read(&mut Cursor::new(bytes)) {
                Ok(None) => assert!(is_end, "{bytes:?}"),
                Ok(Some(message)) => panic!("{message:?}"),
                Err(_) => assert!(!is_end, "{bytes:?}"),
            }
        }
    }

    #[test]
    fn integers_have_a_sign() {
        for (bytes, expected) in [
            (&[0, 0, 1][..], &[0, 0, 0, 1, 1][..]),
            (&[0x80], &[0, 0, 0, 2, 0, 0x80]),
            (&[], &[0, 0, 0, 0]),
            (&[0], &[0, 0, 0, 0]),
        ] {
            let mut found = Vec::new();
            put_integer(&mut found, bytes);
            assert_eq!(found, expected);
        }
    }
}
