//! Compressing layers when they leave the machine, and decompressing whatever comes.
//!
//! The same bytes in give the same bytes out, on any number of cores. gzip is one member, because
//! some readers stop after the first: blocks of fixed size are compressed on all cores, each with
//! the 32 KiB before it as dictionary and ended by a sync flush, and written in order. Blocks that
//! don't shrink are stored.

mod gzip;

use std::io::{self, BufReader, Read, Write};

pub use gzip::GzipWriter;

/// How a layer's blob is compressed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, which every reader takes.
    #[default]
    Gzip,
    /// Zstandard, which is smaller and faster, and read by containerd 1.5, Docker 23 and later.
    Zstd,
}

/// The level at which zstd gains most for its time.
const ZSTD_LEVEL: i32 = 3;
/// xz streams that ask for more memory are refused.
const XZ_MEMORY_LIMIT: u64 = 256 << 20;
/// zstd streams that ask for a larger window (128 MiB) are refused.
const ZSTD_WINDOW_LIMIT: u32 = 27;

impl Compression {
    /// How a layer with this media type is compressed; `None` for what is no layer. Docker's types
    /// and those of layers that are not to be distributed are understood, too.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        Some(match media_type {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Self::None,
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Self::Gzip,
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Self::Zstd,
            _ => return None,
        })
    }

    /// The OCI media type of a layer compressed so.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// Docker's media type of a layer compressed so; Docker has none of its own for zstd.
    pub fn docker_media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.docker.image.rootfs.diff.tar",
            Self::Gzip => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Self::Zstd => Self::Zstd.media_type(),
        }
    }

    /// Compresses all that is written, into `out`, at the usual level.
    ///
    /// # Errors
    /// When the compressor can't be set up.
    pub fn writer<W: Write>(self, out: W) -> io::Result<Compressor<W>> {
        self.writer_at(out, None)
    }

    /// Compresses at a level: gzip 0–9 (usually 6), zstd 1–22 (usually 3).
    ///
    /// # Errors
    /// When the compressor can't be set up.
    pub fn writer_at<W: Write>(self, out: W, level: Option<u32>) -> io::Result<Compressor<W>> {
        Ok(match self {
            Self::None => Compressor::None(out),
            Self::Gzip => Compressor::Gzip(Box::new(match level {
                Some(level) => GzipWriter::with_level(out, level.min(9)),
                None => GzipWriter::new(out),
            })),
            Self::Zstd => {
                let level = level.map_or(ZSTD_LEVEL, |level| level.clamp(1, 22) as i32);
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                encoder.include_checksum(true)?;
                Compressor::Zstd(encoder)
            }
        })
    }
}

/// A sink that compresses. [`Compressor::finish`] must be called, or the end is missing.
pub enum Compressor<W: Write> {
    /// Not compressed.
    None(W),
    /// gzip.
    Gzip(Box<GzipWriter<W>>),
    /// Zstandard, one frame.
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    /// Writes the end of the compressed stream and gives back the sink, flushed.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(self) -> io::Result<W> {
        let mut out = match self {
            Self::None(out) => out,
            Self::Gzip(gzip) => gzip.finish()?,
            Self::Zstd(zstd) => zstd.finish()?,
        };
        out.flush()?;
        Ok(out)
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(out) => out.write(bytes),
            Self::Gzip(gzip) => gzip.write(bytes),
            Self::Zstd(zstd) => zstd.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(out) => out.flush(),
            Self::Gzip(gzip) => gzip.flush(),
            // Flushing zstd ends a block, which would show in the bytes.
            Self::Zstd(_) => Ok(()),
        }
    }
}

/// What a stream starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// None of the others.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

/// How many bytes [`Encoding::detect`] wants to see.
pub const MAGIC_LENGTH: usize = 10;

impl Encoding {
    /// Tells the encoding by the stream's first bytes.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            // A block's or the stream's end's own magic follows the level.
            [
                b'B',
                b'Z',
                b'h',
                b'1'..=b'9',
                0x31,
                0x41,
                0x59,
                0x26,
                0x53,
                0x59,
                ..,
            ]
            | [
                b'B',
                b'Z',
                b'h',
                b'1'..=b'9',
                0x17,
                0x72,
                0x45,
                0x38,
                0x50,
                0x90,
                ..,
            ] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Plain,
        }
    }
}

/// Decompresses a stream by what it starts with: gzip (all members), zstd (all frames), bzip2, xz,
/// or nothing. Only a little of the stream is held in memory.
///
/// # Errors
/// When the start can't be read. Damage further on shows when reading.
pub fn decompress(input: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut input = BufReader::with_capacity(128 * 1024, input);
    let mut start = Vec::with_capacity(MAGIC_LENGTH);
    input
        .by_ref()
        .take(MAGIC_LENGTH as u64)
        .read_to_end(&mut start)?;
    let encoding = Encoding::detect(&start);
    // The part already read, then the rest straight out of the one buffer.
    let input = io::Cursor::new(start).chain(input);
    Ok(match encoding {
        Encoding::Plain => Box::new(input),
        Encoding::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LIMIT)?;
            Box::new(decoder)
        }
        Encoding::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Encoding::Xz => {
            let stream =
                xz2::stream::Stream::new_stream_decoder(XZ_MEMORY_LIMIT, xz2::stream::CONCATENATED)
                    .map_err(io::Error::other)?;
            Box::new(xz2::bufread::XzDecoder::new_stream(input, stream))
        }
    })
}

#[cfg(test)]
mod tests;
