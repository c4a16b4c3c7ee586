use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::sync::Arc;

use super::*;
use crate::layer::form::{Ownership, XattrNamespace};
use crate::layer::tar_reader::read_index;
use crate::layer::tar_writer::TarWriter;
use crate::layer::testing::{Layer, Raw, Tree, is_root, lines, own_form, own_ids, raw, raw_tar};
use crate::layer::xattr::OVERRIDE_STAT;

fn extract_raw(tree: &Tree, members: &[Raw<'_>]) -> Result<Index, LayerError> {
    extract(
        raw_tar(members).as_slice(),
        tree.fd(),
        &own_form(),
        &View::default(),
    )
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    let mut entry = Entry::new(path, kind);
    (entry.uid, entry.gid) = own_ids();
    entry
}

fn layer(entries: Vec<Entry>) -> Vec<u8> {
    let layer = Layer {
        entries,
        ..Layer::default()
    };
    layer.tar().0
}

/// Everything in a tree as the index of a layer over nothing, whiteouts left out.
fn tree_view(tree: &Tree) -> View {
    let index = crate::layer::diff::index_tree(
        tree.fd(),
        &own_form(),
        &View::default(),
        &crate::layer::diff::Owners::supervised(),
        &|_, _| Err(io::ErrorKind::NotFound.into()),
    );
    View::new(vec![Arc::new(index.unwrap())])
}

#[test]
fn the_tree_is_what_the_index_says() {
    let cases: &[&[Raw<'_>]] = &[
        &[],
        &[
            raw('5', "a", ""),
            raw('0', "a/b", "content"),
            raw('2', "l", "a/b"),
            raw('6', "pipe", ""),
        ],
        &[raw('0', "a", "x"), raw('0', "a", "xx")],
        &[raw('5', "a", ""), raw('0', "a/b", ""), raw('0', "a", "x")],
        &[raw('0', "a", "x"), raw('5', "a", ""), raw('0', "a/b", "")],
        &[
            raw('5', "a", ""),
            raw('5', "a/b", ""),
            raw('0', "a/b/c", ""),
            raw('2', "a", "/etc"),
            raw('5', "a", ""),
            raw('0', "a/x", ""),
        ],
        &[
            raw('5', "usr/bin", ""),
            raw('2', "bin", "usr/bin"),
            raw('0', "bin/sh", "x"),
        ],
        &[raw('2', "bin", "/usr/../usr/bin"), raw('0', "bin/sh", "x")],
        &[
            raw('2', "a/up", "../../../etc"),
            raw('0', "a/up/passwd", "x"),
        ],
        &[
            raw('0', "a", "x"),
            raw('1', "b", "a"),
            raw('1', "c", "b"),
            raw('0', "a", "other"),
        ],
        &[raw('0', "z", "x"), raw('1', "a", "z"), raw('1', "m", "z")],
        &[raw('2', "a", "target"), raw('1', "b", "a")],
        &[
            raw('2', "l", "d"),
            raw('0', "d/x", "1"),
            raw('1', "l/y", "l/x"),
        ],
        &[raw('0', "etc/passwd", "root"), raw('0', "etc/group", "")],
    ];
    for members in cases {
        let tree = Tree::new();
        let index = extract_raw(&tree, members).unwrap();
        let tar = raw_tar(members);
        assert_eq!(
            index,
            read_index(tar.as_slice()).unwrap(),
            "extracting and reading disagree"
        );
        for entry in index.entries.iter().filter(|entry| entry.is_file()) {
            let start = entry.offset.unwrap() as usize;
            let content = &tar[start..start + entry.size as usize];
            assert_eq!(
                tree.read(std::str::from_utf8(&entry.path).unwrap())
                    .as_bytes(),
                content
            );
        }
        let names: Vec<_> = members
            .iter()
            .map(|m| String::from_utf8_lossy(m.name))
            .collect();
        let expected = lines(&View::new(vec![Arc::new(index)]));
        assert_eq!(lines(&tree_view(&tree)), expected, "{names:?}");
    }
}

#[test]
fn nothing_is_ever_written_outside() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("victim"), "untouched").unwrap();
    std::fs::create_dir(outside.path().join("directory")).unwrap();
    let out = outside.path().to_str().unwrap();
    let victim = format!("{out}/victim");
    let escaping = format!("../../../../../../../..{out}/victim");
    let through = "escape/victim";
    let cases: Vec<Vec<Raw<'_>>> = vec![
        vec![raw('0', &escaping, "x")],
        vec![raw('2', "escape", out), raw('0', through, "x")],
        vec![
            raw('2', "escape", &escaping[..escaping.len() - 7]),
            raw('0', through, "x"),
        ],
        vec![raw('2', "file", &victim), raw('0', "file", "x")],
        vec![
            raw('2', "file", &victim),
            raw('1', "hard", "file"),
            raw('0', "hard", "x"),
        ],
        vec![raw('1', "hard", &victim), raw('0', "hard", "x")],
        vec![raw('1', "hard", &escaping)],
        vec![
            raw('2', "escape", out),
            raw('1', "escape/new", "escape/victim"),
        ],
        vec![raw('2', "escape", out), raw('0', "escape/.wh.victim", "")],
        vec![raw('2', "escape", out), raw('0', "escape/.wh..wh..opq", "")],
        vec![
            raw('2', "escape", out),
            raw('5', "escape/directory", ""),
            raw('2', "escape/directory", "/"),
        ],
        vec![
            raw('5', "d", ""),
            raw('2', "d", out),
            raw('0', "d/victim", "x"),
        ],
        vec![
            raw('2', "a", "b"),
            raw('2', "b", out),
            raw('0', "a/victim", "x"),
            raw('5', "a/directory", ""),
        ],
        vec![
            raw('2', "escape", "."),
            raw('2', "escape/escape", out),
            raw('0', "escape/escape/victim", "x"),
        ],
        vec![raw('0', ".wh.../victim", "")],
        vec![raw('0', "a/.wh...", "")],
        vec![raw('2', "proc", "/proc/self/cwd"), raw('0', "proc/x", "x")],
        vec![raw('6', "escape", ""), raw('0', "escape/x", "")],
    ];
    for members in &cases {
        let tree = Tree::new();
        let before = list(outside.path());
        let _ = extract_raw(&tree, members);
        let names: Vec<_> = members
            .iter()
            .map(|m| String::from_utf8_lossy(m.name))
            .collect();
        assert_eq!(list(outside.path()), before, "{names:?}");
        assert_eq!(
            std::fs::read_to_string(&victim).unwrap(),
            "untouched",
            "{names:?}"
        );
        assert_eq!(std::fs::metadata(&victim).unwrap().nlink(), 1, "{names:?}");
        assert_eq!(list(tree.folder.path()), ["tree"], "{names:?}");
    }
}

fn list(path: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_link_planted_in_the_tree_is_not_followed() {
    // Whoever else writes into the tree meanwhile can only make the extraction fail.
    let tree = Tree::new();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), tree.path("a")).unwrap();
    assert!(extract_raw(&tree, &[raw('0', "a/x", "x")]).is_err());
    assert!(extract_raw(&tree, &[raw('5', "a", ""), raw('0', "a/x", "x")]).is_err());
    assert!(list(outside.path()).is_empty());
}

#[test]
fn whiteouts_are_devices_of_one_inode_and_opaque_directories_are_marked() {
    let tree = Tree::new();
    let below = ["d", "d/x", "e", "e/x", "e/y", "y"]
        .map(|path| entry(path, EntryKind::Directory { opaque: false }));
    let below = View::new(vec![Arc::new(Index::new(below.into()))]);
    let tar = layer(vec![
        entry("d", EntryKind::Directory { opaque: true }),
        Entry::whiteout("d/x"),
        entry("e", EntryKind::Directory { opaque: false }),
        Entry::whiteout("e/never-there"),
        Entry::whiteout("e/x"),
        Entry::whiteout("e/y"),
        Entry::whiteout("y"),
    ]);
    extract(tar.as_slice(), tree.fd(), &own_form(), &below).unwrap();
    // What has nothing to hide would be listed by the kernel.
    assert!(list(&tree.path("d")).is_empty());
    assert_eq!(list(&tree.path("e")), ["x", "y"]);
    let stats: Vec<_> = ["e/x", "e/y", "y"]
        .map(|path| std::fs::symlink_metadata(tree.path(path)).unwrap())
        .into();
    assert!(
        stats
            .iter()
            .all(|stat| stat.file_type().is_char_device() && stat.rdev() == 0)
    );
    assert!(
        stats
            .iter()
            .all(|stat| stat.ino() == stats[0].ino() && stat.nlink() == 3)
    );
    let marker = |path: &str, name: &str| {
        let file = File::open(tree.path(path)).unwrap();
        Target::Open(file.as_fd()).get(name.as_bytes()).unwrap()
    };
    let (own, other) = if is_root() {
        ("trusted.overlay.opaque", "user.overlay.opaque")
    } else {
        ("user.overlay.opaque", "trusted.overlay.opaque")
    };
    assert_eq!(marker("d", own).as_deref(), Some(&b"y"[..]));
    assert_eq!(marker("d", other), None);
    assert_eq!(marker("e", own), None);
}

#[test]
fn without_attributes_an_opaque_directory_has_whiteouts() {
    let tree = Tree::new();
    let path = tree.path("");
    let flags = rustix::mount::MountFlags::empty();
    let options: Option<&std::ffi::CStr> = None;
    if let Err(error) = rustix::mount::mount("ramfs", &path, "ramfs", flags, options) {
        println!("skipped: ramfs can't be mounted here: {error}");
        return;
    }
    let below = Layer {
        entries: ["d", "d/a", "d/b", "d/c", "d/c/x"]
            .map(|path| entry(path, EntryKind::Directory { opaque: false }))
            .into(),
        ..Layer::default()
    };
    let below = View::new(vec![Arc::new(below.tar().1)]);
    let tar = layer(vec![
        entry("d", EntryKind::Directory { opaque: true }),
        entry("d/b", EntryKind::File),
    ]);
    let folder = File::open(&path).unwrap();
    let result = extract(tar.as_slice(), folder.as_fd(), &own_form(), &below);
    let is_whiteout = ["a", "b", "c"].map(|name| {
        let stat = std::fs::symlink_metadata(path.join("d").join(name)).unwrap();
        stat.file_type().is_char_device() && stat.rdev() == 0
    });
    drop(folder);
    rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).unwrap();
    result.unwrap();
    assert_eq!(is_whiteout, [true, false, true]);
}

#[test]
fn directories_that_the_layer_lacks_are_as_below() {
    let (uid, gid) = own_ids();
    let directory = |path: &str, mode, mtime| Entry {
        mode,
        mtime,
        ..entry(path, EntryKind::Directory { opaque: false })
    };
    let below = View::new(vec![Arc::new(Index::new(vec![
        directory("", 0o711, 5),
        directory("tmp", 0o1777, 7),
        directory("tmp/deep", 0o2750, 9),
        directory("gone", 0o700, 9),
    ]))]);
    let tree = Tree::new();
    let mut file = entry("tmp/deep/file", EntryKind::File);
    file.mtime = 1_000;
    let tar = layer(vec![Entry::whiteout("gone/x"), file]);
    extract(tar.as_slice(), tree.fd(), &own_form(), &below).unwrap();
    for (path, mode, mtime) in [
        ("", 0o711, 5),
        ("tmp", 0o1777, 7),
        ("tmp/deep", 0o2750, 9),
        ("gone", 0o700, 9),
    ] {
        let stat = std::fs::metadata(tree.path(path)).unwrap();
        assert_eq!(
            (stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()),
            (mode, mtime, 0),
            "{path}"
        );
        assert_eq!((stat.uid(), stat.gid()), (uid, gid), "{path}");
    }
    let stat = std::fs::metadata(tree.path("tmp/deep/file")).unwrap();
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1000, 0));
}

#[test]
fn modes_are_exact_whatever_the_umask() {
    let tree = Tree::new();
    let modes = [0o644, 0o4755, 0o2711, 0o6777, 0o000, 0o1666, 0o222, 0o777];
    let mut entries: Vec<Entry> = Vec::new();
    for (i, mode) in modes.into_iter().enumerate() {
        entries.push(Entry {
            mode,
            ..entry(&format!("d{i}"), EntryKind::Directory { opaque: false })
        });
        entries.push(Entry {
            mode,
            ..entry(&format!("d{i}/inside"), EntryKind::File)
        });
    }
    for (i, mode) in modes.into_iter().enumerate() {
        let mut file = Entry {
            mode,
            ..entry(&format!("f{i}"), EntryKind::File)
        };
        if i % 2 == 0 {
            file.xattrs.insert(b"user.note".to_vec(), b"value".to_vec());
        }
        entries.push(file);
        entries.push(Entry {
            mode,
            ..entry(&format!("p{i}"), EntryKind::Fifo)
        });
    }
    entries.sort_by(|a, b| compare_paths(&a.path, &b.path));
    extract(
        layer(entries).as_slice(),
        tree.fd(),
        &own_form(),
        &View::default(),
    )
    .unwrap();
    for (i, mode) in modes.into_iter().enumerate() {
        for kind in ["d", "f", "p"] {
            let stat = std::fs::symlink_metadata(tree.path(&format!("{kind}{i}"))).unwrap();
            assert_eq!(stat.mode() & 0o7777, mode, "{kind}{i}");
        }
    }
}

#[test]
fn a_tree_in_a_set_group_id_folder_is_none_of_it() {
    let tree = Tree::new();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o2775);
    std::fs::set_permissions(tree.path(""), mode).unwrap();
    extract(
        layer(vec![entry("d", EntryKind::Directory { opaque: false })]).as_slice(),
        tree.fd(),
        &own_form(),
        &View::default(),
    )
    .unwrap();
    assert_eq!(
        std::fs::metadata(tree.path("d")).unwrap().mode() & 0o7777,
        0o755
    );
}

#[test]
fn owners_outside_the_map_are_refused_or_noted() {
    let mut foreign = entry("file", EntryKind::File);
    (foreign.uid, foreign.gid, foreign.mode) = (4242, 4343, 0o4711);
    let mut link = entry("link", EntryKind::Symlink);
    (link.uid, link.link) = (4242, b"x".to_vec());
    let tar = layer(vec![foreign, link]);
    let (uid, gid) = own_ids();
    let mut form = Form {
        xattr_namespace: XattrNamespace::User,
        uid_map: vec![(uid, uid, 1)],
        gid_map: vec![(gid, gid, 1)],
        ownership: Ownership::Real,
    };
    let tree = Tree::new();
    let error = extract(tar.as_slice(), tree.fd(), &form, &View::default()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("`/file` is owned by 4242:4343") && text.contains("--add-subuids"),
        "{text}"
    );

    form.ownership = Ownership::OverrideStat;
    let tree = Tree::new();
    let below = View::new(vec![Arc::new(Index::new(vec![entry(
        "",
        EntryKind::Directory { opaque: false },
    )]))]);
    let index = extract(tar.as_slice(), tree.fd(), &form, &below).unwrap();
    let stat = std::fs::metadata(tree.path("file")).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (uid, gid));
    let file = tree.root().open_at(b"file", OFlags::RDONLY);
    // 04711 can't be read by another than its owner; it is ours.
    let value = Target::Open(file.unwrap().as_fd())
        .get(OVERRIDE_STAT)
        .unwrap();
    assert_eq!(value.as_deref(), Some(&b"4242:4343:04711:file"[..]));
    // Read back, the owners are the layer's again; a link's is known from the index alone.
    let read = crate::layer::diff::index_tree(
        tree.fd(),
        &form,
        &below,
        &crate::layer::diff::Owners::supervised(),
        &|_, _| Err(io::ErrorKind::NotFound.into()),
    );
    let read = read.unwrap();
    let mut expected = index.get(b"file").unwrap().clone();
    expected.offset = None;
    assert_eq!(read.get(b"file"), Some(&expected));
}

#[test]
fn devices_are_made_or_stood_in_for() {
    let mut device = entry("null", EntryKind::CharDevice);
    (device.device, device.mode) = ((1, 3), 0o666);
    let root = entry("", EntryKind::Directory { opaque: false });
    let tar = layer(vec![root, device]);
    for ownership in [Ownership::Real, Ownership::OverrideStat] {
        let form = Form {
            ownership,
            ..own_form()
        };
        let tree = Tree::new();
        let index = extract(tar.as_slice(), tree.fd(), &form, &View::default()).unwrap();
        assert_eq!(index.get(b"null").unwrap().device, (1, 3));
        let stat = std::fs::symlink_metadata(tree.path("null")).unwrap();
        if stat.file_type().is_char_device() {
            let made = (stat.rdev(), stat.mode() & 0o7777);
            assert_eq!(made, (rustix::fs::makedev(1, 3), 0o666));
        } else {
            assert!(stat.file_type().is_file() && stat.len() == 0);
            // What stands for it in an attribute keeps its permissions.
            let mode = match ownership {
                Ownership::Real => 0,
                Ownership::OverrideStat => 0o666,
            };
            assert_eq!(stat.mode() & 0o7777, mode);
        }
        // What a step leaves alone is no change, stand-in or not.
        let below = View::new(vec![Arc::new(index)]);
        let read = crate::layer::diff::index_tree(
            tree.fd(),
            &form,
            &below,
            &crate::layer::diff::Owners::supervised(),
            &|_, _| Err(io::ErrorKind::NotFound.into()),
        );
        assert_eq!(read.unwrap(), Index::default(), "{ownership:?}");
    }
}

#[test]
fn capabilities_survive_their_owner() {
    if !is_root() {
        println!("skipped: setting capabilities needs root");
        return;
    }
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let mut ping = entry("ping", EntryKind::File);
    (ping.uid, ping.mode) = (1000, 0o4755);
    ping.xattrs
        .insert(b"security.capability".to_vec(), capability.clone());
    let tree = Tree::new();
    extract(
        layer(vec![ping]).as_slice(),
        tree.fd(),
        &own_form(),
        &View::default(),
    )
    .unwrap();
    let file = File::open(tree.path("ping")).unwrap();
    assert_eq!(
        Target::Open(file.as_fd())
            .get(b"security.capability")
            .unwrap(),
        Some(capability)
    );
    let stat = file.metadata().unwrap();
    assert_eq!((stat.uid(), stat.mode() & 0o7777), (1000, 0o4755));
}

#[test]
fn a_broken_stream_is_an_error_that_names_its_file() {
    let mut content = &b"content"[..];
    let mut file = entry("file", EntryKind::File);
    file.size = 7;
    let mut writer = TarWriter::new(Vec::new());
    writer.append(file, Some(&mut content)).unwrap();
    let (tar, _) = writer.finish().unwrap();
    let tree = Tree::new();
    let error = extract(&tar[..515], tree.fd(), &own_form(), &View::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "can't extract `/file` in the layer's tree"
    );
}
