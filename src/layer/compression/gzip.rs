//! One gzip member, compressed on all cores (RFC 1951, RFC 1952).
//!
//! The input is cut into blocks of [`BLOCK`] bytes wherever it was written. Each block becomes a
//! piece of a raw deflate stream that ends on a byte boundary, made from nothing but its own bytes
//! and the 32 KiB before them; so the pieces are the same whoever makes them and however many do.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::{Compress, Crc, FlushCompress, Status};

/// Bytes of input per block. Larger blocks lose less at their borders, smaller ones keep more cores
/// busy on small layers.
pub(super) const BLOCK: usize = 1 << 20;
/// How far back deflate can refer.
const DICTIONARY: usize = 32 * 1024;
/// The level at which gzip is compared with others, and zlib's default.
const LEVEL: u32 = 6;
/// The most a stored piece of a deflate stream can hold.
const STORED_LIMIT: usize = 0xffff;
/// Magic, deflate, no flags, no time, no extra flags, unknown system: nothing of this machine.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// A last block, of fixed codes, with nothing but its end.
const END: [u8; 2] = [3, 0];

/// Compresses what is written as one gzip member. [`GzipWriter::finish`] must be called, or the end
/// is missing.
pub struct GzipWriter<W> {
    out: W,
    header_written: bool,
    level: u32,
    threads: usize,
    /// Input of the block being filled, after the dictionary.
    block: Vec<u8>,
    dictionary_length: usize,
    checksum: Crc,
    length: u32,
    workers: Option<Workers>,
}

impl<W: Write> GzipWriter<W> {
    /// Compresses at level 6 on all cores.
    pub fn new(out: W) -> Self {
        Self::with_level(out, LEVEL)
    }

    /// Compresses at a level from 0 to 9 on all cores.
    pub fn with_level(out: W, level: u32) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self::with_threads(out, level, threads)
    }

    /// Compresses on so many threads; the result is the same for any number.
    pub fn with_threads(out: W, level: u32, threads: usize) -> Self {
        Self {
            out,
            header_written: false,
            level: level.min(9),
            threads: threads.max(1),
            block: Vec::new(),
            dictionary_length: 0,
            checksum: Crc::new(),
            length: 0,
            workers: None,
        }
    }

    /// Writes the end of the member and gives back the sink.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(mut self) -> io::Result<W> {
        if self.block.len() > self.dictionary_length {
            if self.workers.is_some() {
                self.dispatch()?;
            } else {
                // One block, and nobody to share it with.
                let piece = compress(self.level, &[], &self.block)?;
                self.write_piece(&piece)?;
            }
        }
        while let Some(piece) = self
            .workers
            .as_mut()
            .and_then(Workers::next_piece)
            .transpose()?
        {
            self.write_piece(&piece)?;
        }
        self.write_header()?;
        self.out.write_all(&END)?;
        self.out.write_all(&self.checksum.sum().to_le_bytes())?;
        self.out.write_all(&self.length.to_le_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn write_header(&mut self) -> io::Result<()> {
        if !self.header_written {
            self.header_written = true;
            self.out.write_all(&HEADER)?;
        }
        Ok(())
    }

    /// Hands the filled block to a worker, and writes what is ready.
    fn dispatch(&mut self) -> io::Result<()> {
        let keep = self.block.len().saturating_sub(DICTIONARY);
        let mut next = Vec::with_capacity(DICTIONARY + BLOCK);
        next.extend_from_slice(&self.block[keep..]);
        let job = Job {
            number: 0,
            dictionary_length: self.dictionary_length,
            bytes: std::mem::replace(&mut self.block, next),
        };
        self.dictionary_length = self.block.len();
        let (level, threads) = (self.level, self.threads);
        let workers = self
            .workers
            .get_or_insert_with(|| Workers::new(level, threads));
        workers.send(job)?;
        // Two blocks per worker keep all busy; more would only take memory.
        while let Some(piece) = self
            .workers
            .as_mut()
            .filter(|workers| workers.pending() >= 2 * threads as u64)
            .and_then(Workers::next_piece)
            .transpose()?
        {
            self.write_piece(&piece)?;
        }
        Ok(())
    }

    fn write_piece(&mut self, piece: &Piece) -> io::Result<()> {
        self.write_header()?;
        self.out.write_all(&piece.deflated)?;
        self.checksum.combine(&piece.checksum);
        self.length = self.length.wrapping_add(piece.checksum.amount());
        Ok(())
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == self.dictionary_length + BLOCK {
            self.dispatch()?;
        }
        let n = bytes
            .len()
            .min(self.dictionary_length + BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    /// Blocks are cut by size alone, so what isn't a whole block yet stays here.
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

struct Job {
    number: u64,
    /// How many of the bytes come from the block before.
    dictionary_length: usize,
    bytes: Vec<u8>,
}

struct Piece {
    deflated: Vec<u8>,
    checksum: Crc,
}

/// Threads that make pieces of blocks; they end when their channel does.
struct Workers {
    jobs: Option<Sender<Job>>,
    done: Receiver<(u64, io::Result<Piece>)>,
    /// Pieces that came before their turn.
    early: BTreeMap<u64, io::Result<Piece>>,
    sent: u64,
    taken: u64,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Workers {
    fn new(level: u32, threads: usize) -> Self {
        let (jobs, queue) = channel::<Job>();
        let (sender, done) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let threads = (0..threads)
            .map(|_| {
                let (queue, sender) = (Arc::clone(&queue), sender.clone());
                std::thread::spawn(move || work(level, &queue, &sender))
            })
            .collect();
        Self {
            jobs: Some(jobs),
            done,
            early: BTreeMap::new(),
            sent: 0,
            taken: 0,
            threads,
        }
    }

    fn send(&mut self, mut job: Job) -> io::Result<()> {
        job.number = self.sent;
        self.sent += 1;
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job).map_err(|_| stopped())
    }

    fn pending(&self) -> u64 {
        self.sent - self.taken
    }

    /// The next piece in order, when there is one to come.
    fn next_piece(&mut self) -> Option<io::Result<Piece>> {
        if self.pending() == 0 {
            return None;
        }
        loop {
            if let Some(piece) = self.early.remove(&self.taken) {
                self.taken += 1;
                return Some(piece);
            }
            match self.done.recv() {
                Ok((number, piece)) => {
                    self.early.insert(number, piece);
                }
                Err(_) => return Some(Err(stopped())),
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A worker that panicked has been noticed where its piece was missing.
            let _ = thread.join();
        }
    }
}

fn stopped() -> io::Error {
    io::Error::other("a compression thread stopped")
}

fn work(level: u32, queue: &Mutex<Receiver<Job>>, done: &Sender<(u64, io::Result<Piece>)>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let piece = compress(
            level,
            &job.bytes[..job.dictionary_length],
            &job.bytes[job.dictionary_length..],
        );
        if done.send((job.number, piece)).is_err() {
            return;
        }
    }
}

fn compress(level: u32, dictionary: &[u8], block: &[u8]) -> io::Result<Piece> {
    let mut checksum = Crc::new();
    checksum.update(block);
    let mut deflated = Vec::with_capacity(block.len() / 2 + 1024);
    if level == 0 || looks_random(block)? {
        store(block, &mut deflated);
    } else {
        deflate(level, dictionary, block, &mut deflated)?;
    }
    Ok(Piece { deflated, checksum })
}

/// Appends `block` as stored pieces: a header byte of zeros, and the length twice.
fn store(block: &[u8], out: &mut Vec<u8>) {
    for piece in block.chunks(STORED_LIMIT) {
        // Never more than 16 bits.
        let length = piece.len() as u16;
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(piece);
    }
}

/// Appends `block` as deflate blocks, ended by a sync flush.
fn deflate(level: u32, dictionary: &[u8], block: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut compress = Compress::new(flate2::Compression::new(level), false);
    if !dictionary.is_empty() {
        compress
            .set_dictionary(dictionary)
            .map_err(io::Error::other)?;
    }
    loop {
        let consumed = usize::try_from(compress.total_in()).map_err(io::Error::other)?;
        // Space left over afterwards is how zlib says that the flush is complete.
        if out.capacity() - out.len() < 1024 {
            out.reserve(block.len() / 4 + 4096);
        }
        let status = compress
            .compress_vec(&block[consumed..], out, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        let is_complete = out.len() < out.capacity() && compress.total_in() == block.len() as u64;
        if is_complete || status == Status::BufError && out.len() < out.capacity() {
            return Ok(());
        }
    }
}

/// Whether a block isn't worth compressing: its bytes are spread evenly, and samples of it don't
/// shrink either. Looks at the block alone.
fn looks_random(block: &[u8]) -> io::Result<bool> {
    const SAMPLE: usize = 16 * 1024;
    if block.len() < 4 * SAMPLE {
        return Ok(false);
    }
    let samples: Vec<&[u8]> = (0..4)
        .map(|i| {
            let start = i * (block.len() - SAMPLE) / 3;
            &block[start..start + SAMPLE]
        })
        .collect();
    let mut counts = [0_u32; 256];
    for &byte in samples.iter().copied().flatten() {
        counts[usize::from(byte)] += 1;
    }
    // 64 KiB of random bytes have each value 256 times, give or take 16.
    if counts.iter().any(|&count| count > 512) {
        return Ok(false);
    }
    let mut shrunk = Vec::with_capacity(SAMPLE * 5);
    for sample in &samples {
        deflate(1, &[], sample, &mut shrunk)?;
    }
    Ok(shrunk.len() >= SAMPLE * 4 * 99 / 100)
}
