//! What is pushed: a blob that can be read again from its beginning.
//!
//! An upload whose connection broke begins anew, so a source is not a stream but a way to open
//! one. Every opening must give the same bytes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;

const PIECE: usize = 256 << 10;

/// The bytes of a blob, one piece after the other.
pub type BlobStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A blob to push.
#[derive(Clone)]
pub struct BlobSource {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Bytes(Bytes),
    Stream(Arc<dyn Fn() -> BlobStream + Send + Sync>),
}

impl BlobSource {
    /// A blob held in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self {
            kind: Kind::Bytes(bytes.into()),
        }
    }

    /// An open file, read from its start without moving its position.
    pub fn file(file: File) -> Self {
        let file = Arc::new(file);
        Self::stream(move || read_file(file.clone()))
    }

    /// A blob that `open` makes anew each time, as a stream.
    pub fn stream(open: impl Fn() -> BlobStream + Send + Sync + 'static) -> Self {
        Self {
            kind: Kind::Stream(Arc::new(open)),
        }
    }

    /// A blob that `open` makes anew each time, as a blocking reader. It is opened and read on
    /// a thread for blocking work, a few pieces ahead of the upload.
    pub fn reader<R: Read>(open: impl Fn() -> io::Result<R> + Send + Sync + 'static) -> Self {
        let open = Arc::new(open);
        Self::stream(move || {
            let open = open.clone();
            read_blocking(move |send| {
                let mut reader = open()?;
                loop {
                    let mut piece = Vec::with_capacity(PIECE);
                    let read = (&mut reader).take(PIECE as u64).read_to_end(&mut piece)?;
                    if read == 0 || !send(piece.into()) {
                        return Ok(());
                    }
                }
            })
        })
    }

    /// The whole blob, where it is held in memory.
    pub(super) fn in_memory(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Bytes(bytes) => Some(bytes),
            Kind::Stream(_) => None,
        }
    }

    pub(super) fn open(&self) -> BlobStream {
        match &self.kind {
            Kind::Bytes(bytes) => pieces(bytes.clone()),
            Kind::Stream(open) => open(),
        }
    }
}

/// Cuts bytes held in memory into pieces, so that progress and stalls show.
pub(super) fn pieces(bytes: Bytes) -> BlobStream {
    Box::pin(futures_util::stream::unfold(bytes, |mut rest| async move {
        (!rest.is_empty()).then(|| {
            let piece = rest.split_to(rest.len().min(PIECE));
            (Ok(piece), rest)
        })
    }))
}

fn read_file(file: Arc<File>) -> BlobStream {
    read_blocking(move |send| {
        let mut offset = 0;
        loop {
            let mut piece = vec![0; PIECE];
            let read = match file.read_at(&mut piece, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            piece.truncate(read);
            offset += read as u64;
            if read == 0 || !send(piece.into()) {
                return Ok(());
            }
        }
    })
}

/// A stream fed by `produce` on a thread for blocking work. `produce` ends early when the
/// function it is given returns `false`: nobody listens any more.
fn read_blocking(
    produce: impl FnOnce(&dyn Fn(Bytes) -> bool) -> io::Result<()> + Send + 'static,
) -> BlobStream {
    const AHEAD: usize = 4;
    let (sender, receiver) = tokio::sync::mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let outcome = produce(&|piece| sender.blocking_send(Ok(piece)).is_ok());
        if let Err(error) = outcome {
            // A receiver that is gone needs no error.
            let _ = sender.blocking_send(Err(error));
        }
    });
    Box::pin(futures_util::stream::unfold(
        receiver,
        |mut receiver| async move { receiver.recv().await.map(|piece| (piece, receiver)) },
    ))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use futures_util::TryStreamExt;

    use super::*;

    async fn read(source: &BlobSource) -> io::Result<Vec<u8>> {
        let pieces: Vec<Bytes> = source.open().try_collect().await?;
        Ok(pieces.concat())
    }

    #[tokio::test]
    async fn every_source_can_be_read_twice() {
        let content: Vec<u8> = (0..700_000u32).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let position = file.stream_position().unwrap();
        let kept = file.try_clone().unwrap();
        let for_reader = content.clone();
        for source in [
            BlobSource::bytes(content.clone()),
            BlobSource::file(file),
            BlobSource::reader(move || Ok(io::Cursor::new(for_reader.clone()))),
        ] {
            assert_eq!(read(&source).await.unwrap(), content);
            assert_eq!(read(&source).await.unwrap(), content);
        }
        assert_eq!((&kept).stream_position().unwrap(), position);
    }

    #[tokio::test]
    async fn a_failing_reader_fails_the_stream() {
        let source = BlobSource::reader(|| Err::<io::Empty, _>(io::Error::other("gone")));
        assert_eq!(read(&source).await.unwrap_err().to_string(), "gone");
    }

    #[tokio::test]
    async fn a_dropped_stream_ends_its_reader() {
        let source = BlobSource::reader(|| Ok(io::repeat(1)));
        drop(source.open());
    }
}
