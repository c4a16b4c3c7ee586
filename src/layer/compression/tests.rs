use super::*;

/// Bytes that no compressor shrinks, the same every time.
fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(b"random")
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn text(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 64);
    let mut n = 0_u64;
    while bytes.len() < length {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(format!("line {} of {}\n", n >> 40, bytes.len()).as_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn samples() -> Vec<(&'static str, Vec<u8>)> {
    const BLOCK: usize = gzip::BLOCK;
    vec![
        ("empty", Vec::new()),
        ("one byte", b"x".to_vec()),
        ("less than a block", text(1000)),
        ("a block", text(BLOCK)),
        ("a block and a byte", text(BLOCK + 1)),
        ("zeros", vec![0; 3 * BLOCK + 17]),
        ("text", text(4 * BLOCK + 12_345)),
        ("random", random(3 * BLOCK + 99)),
        (
            "mixed",
            [
                text(BLOCK + 7),
                random(2 * BLOCK),
                text(100_000),
                random(100),
            ]
            .concat(),
        ),
    ]
}

fn gzip_on(bytes: &[u8], threads: usize, chunk: usize) -> Vec<u8> {
    let mut writer = GzipWriter::with_threads(Vec::new(), 6, threads);
    for chunk in bytes.chunks(chunk.max(1)) {
        writer.write_all(chunk).unwrap();
    }
    writer.finish().unwrap()
}

fn read_all(mut reader: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn gzip_is_one_member_that_single_member_readers_read_to_the_end() {
    for (name, bytes) in samples() {
        let packed = gzip_on(&bytes, 3, 65_536);
        assert_eq!(&packed[..4], [0x1f, 0x8b, 8, 0], "{name}: header");
        assert_eq!(
            &packed[4..10],
            [0, 0, 0, 0, 0, 0xff],
            "{name}: no time, no system"
        );
        let mut decoder = flate2::bufread::GzDecoder::new(&packed[..]);
        let mut unpacked = Vec::new();
        decoder.read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == bytes, "{name}: content");
        assert!(
            decoder.into_inner().is_empty(),
            "{name}: bytes after the member"
        );
    }
}

#[test]
fn gzip_gives_the_same_bytes_for_any_threads_and_any_writes() {
    for (name, bytes) in samples() {
        let expected = gzip_on(&bytes, 1, usize::MAX);
        for (threads, chunk) in [(1, 1000), (2, 4096), (5, 1_000_003), (8, usize::MAX)] {
            assert!(
                gzip_on(&bytes, threads, chunk) == expected,
                "{name}: {threads} threads, writes of {chunk}"
            );
        }
    }
}

#[test]
fn random_data_is_stored_and_text_shrinks() {
    let random = random(4 << 20);
    let packed = gzip_on(&random, 2, usize::MAX);
    assert!(
        packed.len() < random.len() + random.len() / 1000,
        "{}",
        packed.len()
    );
    let text = text(4 << 20);
    assert!(gzip_on(&text, 2, usize::MAX).len() < text.len() / 2);
}

#[test]
fn blocks_refer_to_the_block_before() {
    // Two kilobytes of noise, repeated: without a dictionary each block would hold them anew.
    let noise = random(2048);
    let bytes: Vec<u8> = noise.iter().copied().cycle().take(8 << 20).collect();
    let packed = gzip_on(&bytes, 2, usize::MAX).len();
    assert!(packed < 2048 + bytes.len() / 100, "{packed}");
}

#[test]
fn a_sink_that_fails_fails_the_writer() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut writer = GzipWriter::with_threads(Full, 6, 2);
    let result = writer
        .write_all(&text(16 << 20))
        .and_then(|()| writer.finish().map(drop));
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn every_compression_round_trips_and_repeats() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        for (name, bytes) in samples() {
            let pack = |chunk: usize| {
                let mut writer = compression.writer(Vec::new()).unwrap();
                for chunk in bytes.chunks(chunk) {
                    writer.write_all(chunk).unwrap();
                    writer.flush().unwrap();
                }
                writer.finish().unwrap()
            };
            let packed = pack(1 << 30);
            assert!(
                read_all(decompress(io::Cursor::new(packed.clone())).unwrap()) == bytes,
                "{compression:?} {name}"
            );
            assert!(
                pack(10_007) == packed,
                "{compression:?} {name}: depends on the writes"
            );
        }
    }
}

#[test]
fn streams_of_others_are_decompressed_to_their_last_part() {
    let bytes = text(300_000);
    let (first, second) = bytes.split_at(100_000);
    let gzip = |part: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap()
    };
    let bzip2 = |part: &[u8]| {
        read_all(bzip2::read::BzEncoder::new(
            part,
            bzip2::Compression::fast(),
        ))
    };
    let xz = |part: &[u8]| read_all(xz2::read::XzEncoder::new(part, 1));
    let zstd = |part: &[u8]| zstd::bulk::compress(part, 1).unwrap();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    for (encoding, packed) in [
        (Encoding::Plain, bytes.clone()),
        (Encoding::Gzip, [gzip(first), gzip(second)].concat()),
        (Encoding::Bzip2, [bzip2(first), bzip2(second)].concat()),
        (Encoding::Xz, [xz(first), xz(second)].concat()),
        (
            Encoding::Zstd,
            [zstd(first), skippable, zstd(second)].concat(),
        ),
    ] {
        assert_eq!(Encoding::detect(&packed), encoding);
        assert!(
            read_all(decompress(io::Cursor::new(packed)).unwrap()) == bytes,
            "{encoding:?}"
        );
    }
    assert_eq!(read_all(decompress(io::empty()).unwrap()), b"");
}

#[test]
fn damage_is_an_error() {
    let bytes = text(3_000_000);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let mut writer = compression.writer(Vec::new()).unwrap();
        writer.write_all(&bytes).unwrap();
        let packed = writer.finish().unwrap();
        let mut flipped = packed.clone();
        flipped[packed.len() / 2] ^= 0x40;
        for damaged in [
            packed[..packed.len() - 5].to_vec(),
            packed[..1000].to_vec(),
            flipped,
        ] {
            let mut reader = decompress(io::Cursor::new(damaged)).unwrap();
            assert!(
                reader.read_to_end(&mut Vec::new()).is_err(),
                "{compression:?}"
            );
        }
    }
}

#[test]
fn media_types_are_those_of_oci_and_docker() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        assert_eq!(
            Compression::from_media_type(compression.media_type()),
            Some(compression)
        );
        assert_eq!(
            Compression::from_media_type(compression.docker_media_type()),
            Some(compression)
        );
    }
    assert_eq!(
        Compression::from_media_type("application/vnd.oci.image.config.v1+json"),
        None
    );
}
