use super::*;
use crate::layer::entry::EntryKind;
use crate::layer::error::LayerError;
use crate::layer::tar_member::parse_time;
use crate::layer::testing::{Raw, own_ids, raw, raw_tar};
use crate::layer::view::View;

fn index(members: &[Raw<'_>]) -> Result<Index, TarReadError> {
    match read_index(raw_tar(members).as_slice()) {
        Ok(index) => Ok(index),
        Err(LayerError::Read(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

/// The index in shorthand: kind and path, with the target of links.
fn shorthand(index: &Index) -> String {
    index
        .entries
        .iter()
        .map(|entry| {
            let path = String::from_utf8_lossy(&entry.path);
            let link = String::from_utf8_lossy(&entry.link);
            match entry.kind {
                EntryKind::File => format!("f:{path}[{}]", entry.size),
                EntryKind::Directory { opaque: false } => format!("d:{path}"),
                EntryKind::Directory { opaque: true } => format!("o:{path}"),
                EntryKind::Symlink => format!("l:{path}={link}"),
                EntryKind::HardLink => format!("h:{path}={link}"),
                EntryKind::Whiteout => format!("w:{path}"),
                other => format!("{other:?}:{path}"),
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn a_stream_becomes_a_layer() {
    let cases: &[(&str, &[Raw<'_>], &str)] = &[
        ("nothing", &[], ""),
        (
            "names are cleaned",
            &[
                raw('5', "./", ""),
                raw('0', ".//a/./b", "x"),
                raw('0', "/c", ""),
            ],
            "d: f:a/b[1] f:c[0]",
        ),
        (
            "old directories are files with a slash",
            &[raw('0', "a/", "")],
            "d:a",
        ),
        (
            "order doesn't matter",
            &[raw('0', "b", ""), raw('0', "a", "")],
            "f:a[0] f:b[0]",
        ),
        (
            "whiteouts",
            &[raw('0', "a/.wh.b", ""), raw('0', ".wh.c", "")],
            "w:a/b w:c",
        ),
        (
            "opaque",
            &[raw('5', "a", ""), raw('0', "a/.wh..wh..opq", "")],
            "o:a",
        ),
        (
            "opaque before its directory",
            &[raw('0', "a/.wh..wh..opq", ""), raw('5', "a/", "")],
            "o:a",
        ),
        (
            "opaque without a directory",
            &[raw('0', "a/.wh..wh..opq", "")],
            "o:a",
        ),
        (
            "opaque root",
            &[raw('0', ".wh..wh..opq", ""), raw('5', "./", "")],
            "o:",
        ),
        (
            "aufs's own files",
            &[
                raw('5', ".wh..wh.plnk", ""),
                raw('0', ".wh..wh.plnk/1.2", "x"),
                raw('0', ".wh..wh.aufs", ""),
            ],
            "",
        ),
        (
            "a whiteout and a file of one name",
            &[raw('0', "a", "x"), raw('0', ".wh.a", "")],
            "f:a[1]",
        ),
        (
            "a whiteout and a directory of one name",
            &[
                raw('0', ".wh.a", ""),
                raw('5', "a", ""),
                raw('0', "a/b", ""),
            ],
            "o:a f:a/b[0]",
        ),
        (
            "a whiteout and something below it",
            &[raw('0', ".wh.a", ""), raw('0', "a/b", "")],
            "o:a f:a/b[0]",
        ),
        (
            "the last of two files",
            &[raw('0', "a", "x"), raw('0', "a", "xx")],
            "f:a[2]",
        ),
        (
            "a file over a directory",
            &[raw('5', "a", ""), raw('0', "a/b", ""), raw('0', "a", "x")],
            "f:a[1]",
        ),
        (
            "a directory over a file",
            &[raw('0', "a", "x"), raw('5', "a", ""), raw('0', "a/b", "")],
            "d:a f:a/b[0]",
        ),
        (
            "a name that only starts alike stays",
            &[raw('5', "a", ""), raw('0', "a-b", ""), raw('0', "a", "")],
            "f:a[0] f:a-b[0]",
        ),
        (
            "markers inside what goes, go",
            &[
                raw('5', "a", ""),
                raw('0', "a/.wh.b", ""),
                raw('0', "a/.wh..wh..opq", ""),
                raw('0', "a", ""),
                raw('5', "a", ""),
            ],
            "d:a",
        ),
        (
            "below a link of the layer",
            &[
                raw('5', "usr/bin", ""),
                raw('2', "bin", "usr/bin"),
                raw('0', "bin/sh", "x"),
            ],
            "l:bin=usr/bin d:usr/bin f:usr/bin/sh[1]",
        ),
        (
            "below an absolute link",
            &[raw('2', "bin", "/usr/../usr/bin"), raw('0', "bin/sh", "x")],
            "l:bin=/usr/../usr/bin f:usr/bin/sh[1]",
        ),
        (
            "below a link that leads up",
            &[
                raw('2', "a/up", "../../../etc"),
                raw('0', "a/up/passwd", "x"),
            ],
            "l:a/up=../../../etc f:etc/passwd[1]",
        ),
        (
            "a whiteout below a link",
            &[raw('2', "bin", "usr/bin"), raw('0', "bin/.wh.sh", "")],
            "l:bin=usr/bin w:usr/bin/sh",
        ),
        (
            "a directory over a link",
            &[
                raw('2', "bin", "usr/bin"),
                raw('5', "bin", ""),
                raw('0', "bin/sh", "x"),
            ],
            "d:bin f:bin/sh[1]",
        ),
        (
            "hard links",
            &[raw('0', "a", "x"), raw('1', "b", "a"), raw('1', "c", "./b")],
            "f:a[1] h:b=a h:c=a",
        ),
        (
            "the first name is the file",
            &[raw('0', "z", "x"), raw('1', "a", "z")],
            "f:a[1] h:z=a",
        ),
        (
            "a link outlives its target",
            &[raw('0', "a", "x"), raw('1', "b", "a"), raw('0', "a", "xxx")],
            "f:a[3] f:b[1]",
        ),
        (
            "links to symbolic links",
            &[raw('2', "a", "t"), raw('1', "b", "a")],
            "l:a=t h:b=a",
        ),
        (
            "a hard link below a link",
            &[
                raw('2', "l", "d"),
                raw('0', "d/x", "1"),
                raw('1', "l/y", "l/x"),
            ],
            "f:d/x[1] h:d/y=d/x l:l=d",
        ),
        (
            "GNU long names",
            &[
                raw('L', "././@LongLink", "long\0"),
                raw('K', "././@LongLink", "target\0"),
                raw('2', "short", "t"),
            ],
            "l:long=target",
        ),
        (
            "PAX names",
            &[
                raw('x', "pax", "13 path=long\n19 linkpath=target\n"),
                raw('2', "short", "t"),
            ],
            "l:long=target",
        ),
        (
            "PAX takes back what it said",
            &[
                raw('x', "pax", "13 path=long\n8 path=\n"),
                raw('0', "short", ""),
            ],
            "f:short[0]",
        ),
        (
            "global PAX records say nothing",
            &[raw('g', "pax", "13 path=long\n"), raw('0', "short", "")],
            "f:short[0]",
        ),
        ("contiguous files", &[raw('7', "a", "x")], "f:a[1]"),
    ];
    for (name, members, expected) in cases {
        match index(members) {
            Ok(index) => assert_eq!(shorthand(&index), *expected, "{name}"),
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

#[test]
fn what_no_layer_holds_is_refused() {
    type Check = fn(&TarReadError) -> bool;
    let name: Check = |e| matches!(e, TarReadError::InvalidName { .. });
    let link: Check = |e| matches!(e, TarReadError::Assembly(AssemblyError::LinkTarget { .. }));
    let malformed: Check = |e| matches!(e, TarReadError::Malformed { .. });
    let long = "x".repeat(256);
    let deep = "x/".repeat(1100);
    let cases: &[(&str, &[Raw<'_>], Check)] = &[
        ("..", &[raw('0', "../etc/passwd", "")], name),
        (".. inside", &[raw('0', "a/../../etc/passwd", "")], name),
        (".. of a hard link", &[raw('1', "a", "../etc/passwd")], name),
        ("a long component", &[raw('0', &long, "")], name),
        ("a deep path", &[raw('0', &deep, "")], name),
        (
            "a NUL byte",
            &[raw('x', "pax", "12 path=a\0b\n"), raw('0', "a", "")],
            name,
        ),
        ("the root as a file", &[raw('7', "./.", "x")], name),
        ("a symbolic link without target", &[raw('2', "a", "")], name),
        ("whiteout of nothing", &[raw('0', ".wh.", "")], name),
        ("whiteout of ..", &[raw('0', "a/.wh...", "")], name),
        ("inside a whiteout", &[raw('0', ".wh.a/b", "")], name),
        ("a hard link to nothing", &[raw('1', "a", "b")], link),
        (
            "a hard link to a later file",
            &[raw('1', "a", "b"), raw('0', "b", "")],
            link,
        ),
        (
            "a hard link to a directory",
            &[raw('5', "a", ""), raw('1', "b", "a")],
            link,
        ),
        (
            "a hard link to itself",
            &[raw('0', "a", ""), raw('1', "a", "a")],
            link,
        ),
        (
            "a hard link over its target's directory",
            &[raw('0', "a/b", ""), raw('1', "a", "a/b")],
            link,
        ),
        (
            "below a file",
            &[raw('0', "a", ""), raw('0', "a/b", "")],
            |e| {
                matches!(
                    e,
                    TarReadError::Assembly(AssemblyError::NotInDirectory { .. })
                )
            },
        ),
        (
            "below links in a loop",
            &[raw('2', "a", "b"), raw('2', "b", "a"), raw('0', "a/x", "")],
            |e| matches!(e, TarReadError::Assembly(AssemblyError::LinkLoop(_))),
        ),
        ("GNU sparse files", &[raw('S', "a", "")], |e| {
            matches!(e, TarReadError::Sparse(_))
        }),
        (
            "PAX sparse files",
            &[
                raw('x', "pax", "22 GNU.sparse.major=1\n"),
                raw('0', "a", ""),
            ],
            |e| matches!(e, TarReadError::Sparse(_)),
        ),
        ("unknown types", &[raw('V', "volume", "")], |e| {
            matches!(e, TarReadError::UnsupportedType { .. })
        }),
        (
            "malformed PAX",
            &[raw('x', "pax", "99 path=a\n"), raw('0', "a", "")],
            malformed,
        ),
        (
            "PAX without length",
            &[raw('x', "pax", "path=a\n"), raw('0', "a", "")],
            malformed,
        ),
        (
            "PAX of length 0",
            &[raw('x', "pax", "0 path=a\n"), raw('0', "a", "")],
            malformed,
        ),
        (
            "a PAX size that is none",
            &[raw('x', "pax", "11 size=-5\n"), raw('0', "a", "")],
            malformed,
        ),
        (
            "an owner of more than 32 bits",
            &[raw('x', "pax", "18 uid=4294967296\n"), raw('0', "a", "")],
            |e| matches!(e, TarReadError::InvalidOwner { .. }),
        ),
    ];
    for (case, members, check) in cases {
        match index(members) {
            Err(error) if check(&error) => {}
            other => panic!("{case}: {:?}", other.map(|index| shorthand(&index))),
        }
    }
}

#[test]
fn extended_headers_are_bounded() {
    let large = "x".repeat(PAX_LIMIT as usize + 1);
    assert!(matches!(
        index(&[raw('x', "pax", &large)]),
        Err(TarReadError::Malformed { .. })
    ));
    let many: Vec<Raw<'_>> = (0..5)
        .map(|_| raw('L', "long", &large[..PAX_LIMIT as usize]))
        .collect();
    assert!(matches!(index(&many), Err(TarReadError::Malformed { .. })));
}

#[test]
fn attributes_of_overlay_mounts_are_dropped() {
    let records: String = [
        "user.kept",
        "trusted.overlay.redirect",
        "user.overlay.opaque",
        "user.containers.override_stat",
    ]
    .iter()
    .map(|name| {
        let length = 3 + "SCHILY.xattr.=/x\n".len() + name.len();
        format!("{length} SCHILY.xattr.{name}=/x\n")
    })
    .collect();
    let index = index(&[raw('x', "pax", &records), raw('5', "a", "")]).unwrap();
    let xattrs: Vec<_> = index.entries[0].xattrs.iter().collect();
    assert_eq!(xattrs, [(&b"user.kept".to_vec(), &b"/x".to_vec())]);
}

#[test]
fn times_are_rounded_down_to_seconds() {
    for (text, expected) in [
        ("5", Some(5)),
        ("5.999", Some(5)),
        ("-5", Some(-5)),
        ("-5.0", Some(-5)),
        ("-5.1", Some(-6)),
        ("5.", Some(5)),
        ("x", None),
        ("5.x", None),
        ("", None),
        ("99999999999999999999", None),
    ] {
        assert_eq!(parse_time(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn numbers_are_octal_or_binary() {
    for (field, expected) in [
        (&b"0000644\0"[..], Some(0o644)),
        (b"   644 \0", Some(0o644)),
        (b"\0\0\0\0\0\0\0\0", Some(0)),
        (b"        ", Some(0)),
        (b"77777777", Some(0o77_777_777)),
        (b"0000648\0", None),
        (b"-1", None),
        (b"\x80\0\0\0\0\0\x01\0", Some(256)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
    ] {
        assert_eq!(parse_number(field), expected, "{field:?}");
    }
}

#[test]
fn truncated_and_foreign_streams_are_refused() {
    let tar = raw_tar(&[raw('0', "a", "content"), raw('0', "b", "")]);
    for length in [100, 512, 515, 700, 1024 + 100] {
        assert!(read_index(&tar[..length]).is_err(), "{length}");
    }
    // Where a header or the end could stand, ending is as good: so do Go's reader and GNU tar.
    for length in [0, 1024, 1536, 1536 + 512] {
        assert!(read_index(&tar[..length]).is_ok(), "{length}");
    }
    assert!(read_index(&[b'x'; 2048][..]).is_err());
    let mut broken = tar.clone();
    broken[0] = b'z';
    assert!(read_index(broken.as_slice()).is_err());
    let mut one_block = tar[..1024].to_vec();
    one_block.extend_from_slice(&[0; 512]);
    one_block.extend_from_slice(&tar[..512]);
    assert!(read_index(one_block.as_slice()).is_err());
}

#[test]
fn the_stream_is_read_to_its_last_byte() {
    let mut tar = raw_tar(&[raw('0', "a", "content")]);
    tar.resize(20 * 512, 0);
    tar.extend_from_slice(b"anything behind the end");
    let mut stream = crate::digest::HashingStream::new(tar.as_slice());
    read_index(&mut stream).unwrap();
    assert_eq!(stream.finish().2, tar.len() as u64);
}

#[test]
fn an_archive_is_read_member_by_member() {
    let tar = raw_tar(&[
        raw('0', "b", "content"),
        raw('0', ".wh.x", "kept"),
        raw('1', "a", "/b"),
        raw('0', "skipped", "xyz"),
        raw('0', "last", "1"),
    ]);
    let mut seen = Vec::new();
    read_entries::<TarReadError>(tar.as_slice(), &mut |entry, content| {
        let mut text = String::new();
        if entry.path != b"skipped" {
            content.read_to_string(&mut text).unwrap();
        }
        assert_eq!(entry.uid, own_ids().0);
        seen.push((
            String::from_utf8(entry.path).unwrap(),
            String::from_utf8(entry.link).unwrap(),
            text,
        ));
        Ok(())
    })
    .unwrap();
    let seen: Vec<_> = seen
        .iter()
        .map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            ("b", "", "content"),
            (".wh.x", "", "kept"),
            ("a", "b", ""),
            ("skipped", "", ""),
            ("last", "", "1")
        ]
    );
}

#[test]
fn tar_streams_are_told_by_their_first_block() {
    assert!(is_tar(&raw_tar(&[raw('0', "a", "")])));
    for bytes in [&b""[..], &[0; 1024], &[b'x'; 512], b"#!/bin/sh"] {
        assert!(!is_tar(bytes));
    }
}

#[test]
fn user_databases_follow_what_replaces_them() {
    let passwd = |members: &[Raw<'_>]| {
        index(members)
            .unwrap()
            .passwd
            .map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let one = || raw('0', "etc/passwd", "one");
    assert_eq!(passwd(&[one()]).as_deref(), Some("one"));
    assert_eq!(
        passwd(&[one(), raw('0', "etc/passwd", "two")]).as_deref(),
        Some("two")
    );
    assert_eq!(passwd(&[one(), raw('2', "etc/passwd", "x")]), None);
    assert_eq!(passwd(&[one(), raw('0', "etc", "x")]), None);
    assert_eq!(
        passwd(&[one(), raw('0', "x", "x"), raw('1', "etc/passwd", "x")]),
        None
    );
    let index = index(&[one()]).unwrap();
    assert_eq!(
        View::new(vec![std::sync::Arc::new(index)]).passwd(),
        Some(&b"one"[..])
    );
}

#[test]
fn what_gnu_tar_writes_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(120), "n".repeat(200));
    std::fs::create_dir_all(folder.path().join("d".repeat(120))).unwrap();
    std::fs::write(folder.path().join(&long), "content").unwrap();
    std::os::unix::fs::symlink("t".repeat(300), folder.path().join("link")).unwrap();
    for format in ["gnu", "pax", "posix"] {
        let output = std::process::Command::new("tar")
            .args(["--format", format, "-cf", "-", "-C"])
            .arg(folder.path())
            .arg(".")
            .output();
        let Ok(output) = output else {
            println!("skipped: no tar");
            return;
        };
        let index = read_index(output.stdout.as_slice()).unwrap();
        assert_eq!(index.get(long.as_bytes()).unwrap().size, 7, "{format}");
        assert_eq!(
            index.get(b"link").unwrap().link,
            "t".repeat(300).into_bytes(),
            "{format}"
        );
        assert!(index.get(b"").is_some(), "{format}");
    }
}

mod any_bytes {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn damaged_streams_never_panic(position in 0_usize..4000, value in any::<u8>(), cut in 0_usize..6000) {
            let mut tar = raw_tar(&[
                raw('x', "pax", "13 path=long\n"),
                raw('0', "a", "content"),
                raw('5', "d", ""),
                raw('1', "h", "long"),
            ]);
            let position = position % tar.len();
            tar[position] = value;
            tar.truncate(cut);
            let _ = read_index(tar.as_slice());
        }

        #[test]
        fn pax_records_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_pax(&bytes, &mut Extended::default());
        }
    }
}

#[test]
fn metadata_is_bounded_however_well_it_compresses() {
    let tar = raw_tar(&[raw('0', "a", ""), raw('0', "b", ""), raw('0', "c", "")]);
    let mut reader = TarReader::new(tar.as_slice());
    reader.metadata_left = 2 * (ENTRY_SIZE + 1);
    for name in [b"a", b"b"] {
        assert_eq!(reader.next_entry().unwrap().unwrap().path, name);
    }
    let error = reader.next_entry().unwrap_err();
    let second = TarReadError::TooMuchMetadata { position: 1024 };
    assert_eq!(error.to_string(), second.to_string());

    let mut entry = Entry::new("a", EntryKind::Symlink);
    entry.link = b"target".to_vec();
    entry.xattrs.insert(b"user.x".to_vec(), b"value".to_vec());
    assert_eq!(metadata_size(&entry), 2 * ENTRY_SIZE + 1 + 6 + 6 + 5);
}
