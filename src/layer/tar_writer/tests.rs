use std::process::{Command, Stdio};

use super::*;
use crate::layer::tar_reader::read_index;

fn file(path: &str, content: &str) -> (Entry, Vec<u8>) {
    let mut entry = Entry::new(path, EntryKind::File);
    entry.size = content.len() as u64;
    (entry, content.into())
}

fn linked(kind: EntryKind, path: &str, link: &str) -> (Entry, Vec<u8>) {
    let mut entry = Entry::new(path, kind);
    entry.link = link.into();
    (entry, Vec::new())
}

fn directory(path: &str) -> (Entry, Vec<u8>) {
    (Entry::directory(path), Vec::new())
}

fn write(entries: Vec<(Entry, Vec<u8>)>) -> Result<(Vec<u8>, Index), LayerError> {
    let mut writer = TarWriter::new(Vec::new());
    for (entry, content) in entries {
        let mut content = content.as_slice();
        let is_file = entry.is_file();
        writer.append(entry, is_file.then_some(&mut content as &mut dyn Read))?;
    }
    writer.finish()
}

/// One of everything, with what needs PAX records.
fn everything() -> Vec<(Entry, Vec<u8>)> {
    let mut owned = directory("a");
    (owned.0.uid, owned.0.gid, owned.0.mode) = (4_000_000_000, 7, 0o3775);
    owned.0.kind = EntryKind::Directory { opaque: true };
    let mut attributes = file("a/attributes", "x");
    attributes
        .0
        .xattrs
        .insert(b"user.binary".to_vec(), b"a\nb=c\0\xff".to_vec());
    attributes
        .0
        .xattrs
        .insert(b"security.capability".to_vec(), vec![1, 0, 0, 2, 0]);
    let mut old = file("a/old", "");
    old.0.mtime = -1;
    let mut late = file("a/late", "");
    late.0.mtime = 1 << 40;
    let mut device = linked(EntryKind::CharDevice, "dev-null", "");
    device.0.device = (1, 3);
    let mut bytes = file("zz", "bytes");
    bytes.0.path = b"z-\xff\xfe name".to_vec();
    vec![
        owned,
        attributes,
        linked(EntryKind::HardLink, "a/hard", "a/attributes"),
        late,
        old,
        directory(&format!("a/p{}", "p".repeat(90))),
        file(
            &format!("a/p{}/{}", "p".repeat(90), "n".repeat(90)),
            "split",
        ),
        file(&format!("a/{}", "q".repeat(200)), "long"),
        device,
        linked(EntryKind::Fifo, "fifo", ""),
        (Entry::whiteout("gone"), Vec::new()),
        linked(EntryKind::Symlink, "link", "../any/\u{e4}"),
        linked(EntryKind::Symlink, "long-link", &"t/".repeat(80)),
        file("z-", "multiple of a block".repeat(512).as_str()),
        bytes,
    ]
}

#[test]
fn what_is_written_is_read_back() {
    let (tar, index) = write(everything()).unwrap();
    let read = read_index(tar.as_slice()).unwrap();
    assert_eq!(read, index);
    for entry in index.entries.iter().filter(|entry| entry.is_file()) {
        let start = entry.offset.unwrap() as usize;
        let content = &tar[start..start + entry.size as usize];
        let expected = everything()
            .into_iter()
            .find(|(e, _)| e.path == entry.path)
            .unwrap()
            .1;
        assert_eq!(content, expected, "{}", display_path(&entry.path));
    }
}

#[test]
fn the_stream_ends_with_two_zero_blocks_and_nothing_more() {
    assert_eq!(write(vec![]).unwrap().0, [0; 1024]);
    let (tar, _) = write(vec![file("a", "x")]).unwrap();
    assert_eq!(tar.len(), 512 + 512 + 1024);
    assert!(tar[tar.len() - 1024..].iter().all(|&b| b == 0));
}

#[test]
fn plain_entries_have_one_header_and_no_names_of_users() {
    let (tar, _) = write(vec![file("a", "x")]).unwrap();
    let mut expected = [0_u8; 512];
    for (at, text) in [
        (0, "a"),
        (100, "0000644"),
        (108, "0000000"),
        (116, "0000000"),
        (124, "00000000001"),
        (136, "00000000000"),
        (148, "007337\0 "),
        (156, "0"),
        (257, "ustar\x0000"),
        (329, "0000000"),
        (337, "0000000"),
    ] {
        expected[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    assert_eq!(&tar[..512], expected);
}

#[test]
fn markers_follow_the_image_specification() {
    let mut opaque = Entry::new("d", EntryKind::Directory { opaque: true });
    opaque.mode = 0o700;
    let (tar, _) = write(vec![(opaque, vec![]), (Entry::whiteout("d/x"), vec![])]).unwrap();
    let names: Vec<&str> = tar
        .chunks(512)
        .filter(|block| block[0] != 0)
        .map(|block| {
            std::str::from_utf8(&block[..100])
                .unwrap()
                .trim_end_matches('\0')
        })
        .collect();
    assert_eq!(names, ["d/", "d/.wh..wh..opq", "d/.wh.x"]);
}

#[test]
fn entries_that_no_layer_can_hold_are_refused() {
    let mut root_file = file("", "");
    root_file.0.path.clear();
    let mut xattr = file("a", "");
    xattr.0.xattrs.insert(b"user.a=b".to_vec(), vec![]);
    let mut huge = file("a", "");
    huge.0.xattrs.insert(b"user.a".to_vec(), vec![0; 1 << 20]);
    let short = {
        let mut entry = file("a", "content").0;
        entry.size += 1;
        (entry, b"content".to_vec())
    };
    let long = {
        let mut entry = file("a", "content").0;
        entry.size -= 1;
        (entry, b"content".to_vec())
    };
    type Case = (Vec<(Entry, Vec<u8>)>, fn(&TarWriteError) -> bool);
    let cases: Vec<Case> = vec![
        (vec![file("b", ""), file("a", "")], |e| {
            matches!(e, TarWriteError::NotSorted { .. })
        }),
        (vec![file("a", ""), file("a", "")], |e| {
            matches!(e, TarWriteError::NotSorted { .. })
        }),
        (vec![directory("a-b"), directory("a/b")], |e| {
            matches!(e, TarWriteError::NotSorted { .. })
        }),
        (vec![file("a", ""), file("a/b", "")], |e| {
            matches!(e, TarWriteError::NotInDirectory { .. })
        }),
        (vec![file("/a", "")], |e| {
            matches!(e, TarWriteError::InvalidPath(_))
        }),
        (vec![file("a/../b", "")], |e| {
            matches!(e, TarWriteError::InvalidPath(_))
        }),
        (vec![file("a//b", "")], |e| {
            matches!(e, TarWriteError::InvalidPath(_))
        }),
        (vec![root_file], |e| {
            matches!(e, TarWriteError::InvalidPath(_))
        }),
        (vec![file(&"a/".repeat(2048)[..4095], "")], |e| {
            matches!(e, TarWriteError::PathTooLong(_))
        }),
        (vec![file(".wh.a", "")], |e| {
            matches!(e, TarWriteError::ReservedName(_))
        }),
        (vec![file("a/.wh..wh..opq", "")], |e| {
            matches!(e, TarWriteError::ReservedName(_))
        }),
        (vec![file(".wh.a/b", "")], |e| {
            matches!(e, TarWriteError::ReservedName(_))
        }),
        (vec![linked(EntryKind::Symlink, "a", "")], |e| {
            matches!(e, TarWriteError::InvalidLink(_))
        }),
        (vec![linked(EntryKind::Symlink, "a", "b\0")], |e| {
            matches!(e, TarWriteError::InvalidLink(_))
        }),
        (vec![linked(EntryKind::HardLink, "a", "b")], |e| {
            matches!(e, TarWriteError::LinkTarget { .. })
        }),
        (
            vec![directory("a"), linked(EntryKind::HardLink, "b", "a")],
            |e| matches!(e, TarWriteError::LinkTarget { .. }),
        ),
        (vec![xattr], |e| {
            matches!(e, TarWriteError::XattrName { .. })
        }),
        (vec![huge], |e| {
            matches!(e, TarWriteError::TooMuchMetadata(_))
        }),
        (vec![short], |e| {
            matches!(e, TarWriteError::SizeChanged { .. })
        }),
        (vec![long], |e| {
            matches!(e, TarWriteError::SizeChanged { .. })
        }),
    ];
    for (entries, check) in cases {
        let name = format!(
            "{:?}",
            entries
                .iter()
                .map(|(e, _)| display_path(&e.path))
                .collect::<Vec<_>>()
        );
        match write(entries) {
            Err(LayerError::Write(error)) if check(&error) => {}
            other => panic!("{name}: {:?}", other.map(|_| "written")),
        }
    }
}

#[test]
fn user_databases_are_kept_with_the_index() {
    let passwd = "root:x:0:0::/:/bin/sh\n";
    let (_, index) = write(vec![
        directory("etc"),
        file("etc/group", ""),
        file("etc/passwd", passwd),
    ])
    .unwrap();
    assert_eq!(index.passwd.as_deref(), Some(passwd.as_bytes()));
    assert_eq!(index.group.as_deref(), Some(&b""[..]));
    let large = "x".repeat(INLINE_LIMIT as usize + 1);
    let (_, index) = write(vec![file("etc/passwd", &large)]).unwrap();
    assert_eq!(index.passwd, None);
}

/// Runs a program on the stream; `None`, with a reason, when it isn't here.
fn ask(program: &str, arguments: &[&str], tar: &[u8]) -> Option<String> {
    let child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: no {program}");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let tar = tar.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&tar));
    let output = child.wait_with_output().unwrap();
    let _ = feeder.join();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && stderr.is_empty(),
        "{program}: {stderr}"
    );
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn tar_lists_every_entry() {
    let (tar, _) = write(everything()).unwrap();
    let Some(listed) = ask(
        "tar",
        &["--numeric-owner", "--full-time", "--utc", "-tvf", "-"],
        &tar,
    ) else {
        return;
    };
    for part in [
        "drwxrwsr-t 4000000000/7     0 1970-01-01 00:00:00 a/\n",
        "a/.wh..wh..opq\n",
        "hrw-r--r-- 0/0               0 1970-01-01 00:00:00 a/hard link to a/attributes\n",
        "1969-12-31 23:59:59 a/old\n",
        "36812-02-20 00:36:16 a/late\n",
        &format!("a/p{}/{}\n", "p".repeat(90), "n".repeat(90)),
        &format!("a/{}\n", "q".repeat(200)),
        "crw-r--r-- 0/0             1,3 1970-01-01 00:00:00 dev-null\n",
        "prw-r--r-- 0/0               0 1970-01-01 00:00:00 fifo\n",
        "----------",
        ".wh.gone\n",
        "link -> ../any/\\303\\244\n",
        &format!("long-link -> {}\n", "t/".repeat(80)),
        "z-\\377\\376 name\n",
    ] {
        let squeezed = |text: &str| {
            text.split(' ')
                .filter(|word| !word.is_empty())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert!(
            squeezed(&listed).contains(&squeezed(part)),
            "{part:?} in\n{listed}"
        );
    }
}

#[test]
fn python_reads_every_entry_and_its_content() {
    let (tar, index) = write(everything()).unwrap();
    let program = "
import io, sys, tarfile
tar = tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()), mode='r:', errors='surrogateescape')
for m in tar:
    name = m.name.encode('utf-8', 'surrogateescape').hex()
    link = m.linkname.encode('utf-8', 'surrogateescape').hex()
    print(name, link, oct(m.mode), m.uid, m.gid, m.size, int(m.mtime), m.offset_data if m.isreg() else '-', m.uname + m.gname + '.')
";
    let Some(listed) = ask("python3", &["-c", program], &tar) else {
        return;
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    for entry in index.entries.iter().filter(|entry| !entry.is_whiteout()) {
        let offset = entry
            .offset
            .map_or("-".to_owned(), |offset| offset.to_string());
        let expected = format!(
            "{} {} 0o{:o} {} {} {} {} {offset} .",
            hex(&entry.path),
            hex(&entry.link),
            entry.mode,
            entry.uid,
            entry.gid,
            entry.size,
            entry.mtime
        );
        assert!(
            listed.lines().any(|line| line == expected),
            "{expected} in\n{listed}"
        );
    }
}
