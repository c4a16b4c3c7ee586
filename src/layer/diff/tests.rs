use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use rustix::fs::Mode;

use super::*;
use crate::layer::apply::extract;
use crate::layer::form::XattrNamespace;
use crate::layer::testing::{Layer, Tree, any_layer, lines, own_form, own_ids};

fn no_lower(_: &[u8], _: &Found<'_>) -> io::Result<Box<dyn Read>> {
    Err(io::Error::other("nothing is below"))
}

/// A layer in shorthand, one entry per word: `d:path` directory, `f:path=content` file,
/// `l:path=target` symbolic link; owned by this process, of time 1000.
fn layer(text: &str) -> Layer {
    let mut layer = Layer::default();
    for word in text.split_whitespace() {
        let (kind, rest) = word.split_once(':').unwrap();
        let (path, value) = rest.split_once('=').unwrap_or((rest, ""));
        let kind = match kind {
            "d" => EntryKind::Directory { opaque: false },
            "f" => EntryKind::File,
            "l" => EntryKind::Symlink,
            other => panic!("unknown kind {other}"),
        };
        let mut entry = Entry::new(path, kind);
        (entry.uid, entry.gid) = own_ids();
        entry.mtime = 1000;
        match kind {
            EntryKind::Symlink => entry.link = value.into(),
            EntryKind::File => {
                entry.size = value.len() as u64;
                layer.contents.insert(path.into(), value.into());
            }
            _ => {}
        }
        layer.entries.push(entry);
    }
    layer
}

/// A stack of layers, extracted, with the contents that comparisons ask for.
struct Below {
    trees: Vec<Tree>,
    view: View,
    contents: Vec<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Below {
    fn new(layers: &[Layer]) -> Self {
        let mut below = Self {
            trees: Vec::new(),
            view: View::default(),
            contents: Vec::new(),
        };
        for layer in layers {
            let tree = Tree::new();
            let index = extract(
                layer.tar().0.as_slice(),
                tree.fd(),
                &own_form(),
                &below.view,
            )
            .unwrap();
            below.trees.push(tree);
            below.view.push(Arc::new(index));
            below.contents.push(layer.contents.clone());
        }
        below
    }

    fn index(&self, upper: BorrowedFd<'_>) -> Index {
        index_tree(
            upper,
            &own_form(),
            &self.view,
            &Owners::supervised(),
            &|_, found| {
                let content = self.contents[found.layer][&found.entry.path].clone();
                Ok(Box::new(io::Cursor::new(content)))
            },
        )
        .unwrap()
    }
}

fn shorthand(index: &Index) -> String {
    let words = index.entries.iter().map(|entry| {
        let path = String::from_utf8_lossy(&entry.path);
        let link = String::from_utf8_lossy(&entry.link);
        match entry.kind {
            EntryKind::File => format!("f:{path}[{}]", entry.size),
            EntryKind::Directory { opaque } => format!("{}:{path}", if opaque { "o" } else { "d" }),
            EntryKind::Symlink => format!("l:{path}={link}"),
            EntryKind::HardLink => format!("h:{path}={link}"),
            EntryKind::Whiteout => format!("w:{path}"),
            other => format!("{other:?}:{path}"),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Mounts an overlay over trees and unmounts it at the end.
struct Mount(std::path::PathBuf);

impl Mount {
    /// Whether this process may mount overlays; says so if not.
    fn is_possible() -> bool {
        let (a, b, at) = (Tree::new(), Tree::new(), tempfile::tempdir().unwrap());
        match Self::try_new(&[a, b], None, at.path()) {
            Ok(_) => true,
            Err(error) => {
                println!("skipped: overlay can't be mounted here: {error}");
                false
            }
        }
    }

    fn new(lower: &[Tree], upper: Option<&Tree>, at: &std::path::Path) -> Self {
        Self::try_new(lower, upper, at).unwrap()
    }

    fn try_new(lower: &[Tree], upper: Option<&Tree>, at: &std::path::Path) -> io::Result<Self> {
        let lower: Vec<String> = lower
            .iter()
            .rev()
            .map(|tree| tree.path("").display().to_string())
            .collect();
        let mut options = format!("lowerdir={},metacopy=off", lower.join(":"));
        options += match own_form().xattr_namespace {
            XattrNamespace::Trusted => ",index=off",
            XattrNamespace::User => ",userxattr",
        };
        if let Some(upper) = upper {
            let work = upper.folder.path().join("work");
            std::fs::create_dir(&work).unwrap();
            options += &format!(
                ",upperdir={},workdir={}",
                upper.path("").display(),
                work.display()
            );
        }
        let options = std::ffi::CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("overlay", at, "overlay", flags, &*options)?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_step_s_changes_are_what_shows_differently() {
    if !Mount::is_possible() {
        return;
    }
    const BASE: &str = "d: d:bin f:bin/sh=shell d:dir f:dir/a=one f:dir/b=two d:dir/sub f:dir/sub/c=three d:empty f:file=content l:link=file d:tmp";
    let cases: &[(&str, &str, &str)] = &[
        ("nothing", "true", ""),
        ("a new file", "echo x > tmp/new", "d:tmp f:tmp/new[2]"),
        (
            "a file touched, and touched back",
            "touch file; touch -d @1000 file",
            "",
        ),
        (
            "a mode changed and changed back",
            "chmod 600 dir/a; chmod 644 dir/a",
            "",
        ),
        (
            "a file written as it was",
            "printf content > file; touch -d @1000 file",
            "",
        ),
        (
            "the same size and time, another content",
            "printf CONTENT > file; touch -d @1000 file",
            "f:file[7]",
        ),
        ("another time", "touch -d @2000 dir/a", "d:dir f:dir/a[3]"),
        (
            "a fraction of a second is no change",
            "touch -d @1000.5 dir/a",
            "",
        ),
        ("another mode", "chmod 600 dir/a", "d:dir f:dir/a[3]"),
        ("another mode of a directory", "chmod 700 dir", "d:dir"),
        ("a directory only touched", "touch dir/x; rm dir/x", ""),
        ("a file removed", "rm dir/a", "d:dir w:dir/a"),
        ("a directory removed", "rm -r dir", "w:dir"),
        (
            "a directory removed and made anew",
            "rm -r dir; mkdir dir",
            "d:dir w:dir/a w:dir/b w:dir/sub",
        ),
        (
            "partly made anew",
            "rm -r dir; mkdir -p dir/sub; echo x > dir/a",
            "d:dir f:dir/a[2] w:dir/b d:dir/sub w:dir/sub/c",
        ),
        (
            "made anew as it was",
            "cp -a dir x; rm -r dir; mkdir dir; cp -a x/. dir; rm -r x",
            "",
        ),
        (
            "a file removed and made anew as it was",
            "rm file; printf content > file; touch -d @1000 file",
            "",
        ),
        ("a file made and removed", "touch new; rm new", ""),
        (
            "a directory renamed",
            "cp -a dir moved; rm -r dir",
            "w:dir d:moved f:moved/a[3] f:moved/b[3] d:moved/sub f:moved/sub/c[5]",
        ),
        ("a file renamed", "mv file renamed", "w:file f:renamed[7]"),
        (
            "a file over a directory",
            "rm -r dir; echo x > dir",
            "f:dir[2]",
        ),
        (
            "a directory over a file",
            "rm file; mkdir file; touch file/x",
            "d:file f:file/x[0]",
        ),
        (
            "a link over a directory",
            "rm -r dir; ln -s bin dir",
            "l:dir=bin",
        ),
        ("another link", "ln -sfn bin/sh link", "l:link=bin/sh"),
        (
            "a link made anew as it was",
            "rm link; ln -s file link; touch -h -d @1000 link",
            "",
        ),
        (
            "a hard link to a lower file",
            "ln bin/sh bin/bash",
            "d:bin f:bin/bash[5] h:bin/sh=bin/bash",
        ),
        (
            "hard links",
            "echo x > tmp/z; ln tmp/z tmp/a; ln tmp/z m",
            "f:m[2] d:tmp h:tmp/a=m h:tmp/z=m",
        ),
        ("a pipe", "mkfifo tmp/pipe", "d:tmp Fifo:tmp/pipe"),
        ("the root's mode", "chmod 700 .", "d:"),
        (
            "a deep directory",
            "mkdir -p empty/a/b",
            "d:empty d:empty/a d:empty/a/b",
        ),
        (
            "an attribute",
            "setfattr -n user.x -v y dir/b 2>/dev/null || python3 -c 'import os;os.setxattr(\"dir/b\",\"user.x\",b\"y\")'",
            "d:dir f:dir/b[3]",
        ),
        (
            "user databases",
            "mkdir etc; echo root > etc/passwd",
            "d:etc f:etc/passwd[5]",
        ),
    ];
    for (name, script, expected) in cases {
        let below = Below::new(&[layer(BASE)]);
        let upper = Tree::new();
        // As whoever mounts has to: the upper directory's attributes are those of the new root.
        rustix::fs::fchmod(upper.fd(), Mode::from_raw_mode(0o755)).unwrap();
        let mount_point = tempfile::tempdir().unwrap();
        let mount = Mount::new(&below.trees, Some(&upper), mount_point.path());
        let status = std::process::Command::new("sh")
            .args(["-c", &format!("set -e; umask 022; {script}")])
            .current_dir(mount_point.path())
            .status()
            .unwrap();
        assert!(status.success(), "{name}");
        drop(mount);
        let index = below.index(upper.fd());
        assert_eq!(shorthand(&index), *expected, "{name}");
        if index.get(b"etc/passwd").is_some() {
            assert_eq!(index.passwd.as_deref(), Some(&b"root\n"[..]));
        }
        // And so it goes on: the layer's tar, extracted again, shows the same.
        let (tar, written) = write_tree_tar(upper.fd(), &index, None, Vec::new()).unwrap();
        assert_eq!(
            crate::layer::tar_reader::read_index(tar.as_slice()).unwrap(),
            written,
            "{name}"
        );
    }
}

#[test]
fn a_mount_of_extracted_layers_shows_what_the_view_says() {
    if !Mount::is_possible() {
        return;
    }
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(60));
    let layers = (any_layer(false), any_layer(true), any_layer(true));
    let mounts = tempfile::tempdir().unwrap();
    let result = runner.run(&layers, |(a, b, c)| {
        let below = Below::new(&[a, b, c]);
        let _mount = Mount::new(&below.trees, None, mounts.path());
        prop_assert_eq!(listed_only(mounts.path()), Vec::<std::path::PathBuf>::new());
        let merged = File::open(mounts.path()).unwrap();
        let shown = index_tree(
            std::os::fd::AsFd::as_fd(&merged),
            &own_form(),
            &View::default(),
            &Owners::supervised(),
            &no_lower,
        )
        .unwrap();
        // Overlay breaks hard links up, and a root that the layers don't have is as its tree.
        let expected = lines(&below.view);
        let shown = lines(&View::new(vec![Arc::new(shown)]));
        prop_assert_eq!(&shown[1..], &expected[1..]);
        Ok(())
    });
    result.unwrap();
}

/// What a folder lists and doesn't have: whiteouts that the kernel doesn't take for such.
fn listed_only(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut missing = Vec::new();
    for name in std::fs::read_dir(folder).unwrap() {
        let path = name.unwrap().path();
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => missing.extend(listed_only(&path)),
            Ok(_) => {}
            Err(_) => missing.push(path),
        }
    }
    missing
}

#[test]
fn an_upper_directory_made_by_hand_is_understood() {
    let below = Below::new(&[layer("d: d:dir f:dir/a=one f:dir/b=two f:file=content")]);
    let upper = Tree::new();
    rustix::fs::fchmod(upper.fd(), Mode::from_raw_mode(0o755)).unwrap();
    std::fs::create_dir(upper.path("dir")).unwrap();
    std::fs::write(upper.path("dir/a"), "other").unwrap();
    let whiteout = |path: &str| {
        let path = upper.path(path);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .unwrap();
    };
    whiteout("file");
    whiteout("never-there");
    whiteout("dir/never-there");
    let _socket = std::os::unix::net::UnixListener::bind(upper.path("socket")).unwrap();
    assert_eq!(
        shorthand(&below.index(upper.fd())),
        "d:dir f:dir/a[5] w:file"
    );

    let directory = File::open(upper.path("dir")).unwrap();
    let mark = |name: &str, value: &[u8]| {
        rustix::fs::fsetxattr(&directory, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    let namespace = own_form().xattr_namespace;
    mark(namespace.opaque(), b"y");
    mark(&format!("{}origin", namespace.overlay_prefix()), b"x");
    mark("user.kept", b"");
    let index = below.index(upper.fd());
    assert_eq!(shorthand(&index), "d:dir f:dir/a[5] w:dir/b w:file");
    let names: Vec<_> = index.get(b"dir").unwrap().xattrs.keys().cloned().collect();
    assert_eq!(names, [b"user.kept".to_vec()]);

    mark(&format!("{}redirect", namespace.overlay_prefix()), b"/x");
    let error = index_tree(
        upper.fd(),
        &own_form(),
        &below.view,
        &Owners::supervised(),
        &no_lower,
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`/dir` has the overlay attribute"),
        "{error}"
    );
}

#[test]
fn names_that_readers_take_for_deletions_are_refused() {
    let upper = Tree::new();
    std::fs::create_dir(upper.path("dir")).unwrap();
    std::fs::write(upper.path("dir/.wh.x"), "").unwrap();
    let error = index_tree(
        upper.fd(),
        &own_form(),
        &View::default(),
        &Owners::supervised(),
        &no_lower,
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("`/dir/.wh.x` can't be in a layer"),
        "{error}"
    );
}

#[test]
fn markers_of_the_other_namespace_mean_nothing() {
    let upper = Tree::new();
    std::fs::create_dir(upper.path("dir")).unwrap();
    let directory = File::open(upper.path("dir")).unwrap();
    rustix::fs::fsetxattr(
        &directory,
        "user.overlay.redirect",
        b"/x",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let form = Form {
        xattr_namespace: XattrNamespace::Trusted,
        ..own_form()
    };
    let index = index_tree(
        upper.fd(),
        &form,
        &View::default(),
        &Owners::supervised(),
        &no_lower,
    )
    .unwrap();
    assert!(index.get(b"dir").unwrap().xattrs.is_empty());
}

#[test]
fn times_are_clamped_when_asked() {
    let tree = Tree::new();
    extract(
        layer("d:d f:d/f=x l:l=x").tar().0.as_slice(),
        tree.fd(),
        &own_form(),
        &root_below(),
    )
    .unwrap();
    let index = index_tree(
        tree.fd(),
        &own_form(),
        &root_below(),
        &Owners::supervised(),
        &no_lower,
    )
    .unwrap();
    for (clamp, expected) in [(None, 1000), (Some(5), 5), (Some(2000), 1000)] {
        let (_, written) = write_tree_tar(
            tree.fd(),
            &index,
            clamp.map(Timestamp::from_seconds),
            Vec::new(),
        )
        .unwrap();
        assert!(
            written.entries.iter().all(|entry| entry.mtime == expected),
            "{clamp:?}"
        );
    }
}

#[test]
fn a_file_that_changed_since_is_an_error() {
    let tree = Tree::new();
    std::fs::write(tree.path("file"), "one").unwrap();
    let index = index_tree(
        tree.fd(),
        &own_form(),
        &View::default(),
        &Owners::supervised(),
        &no_lower,
    )
    .unwrap();
    std::fs::write(tree.path("file"), "three").unwrap();
    let error = write_tree_tar(tree.fd(), &index, None, Vec::new()).unwrap_err();
    assert!(error.to_string().contains("`/file` changed"), "{error}");
    std::fs::remove_file(tree.path("file")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", tree.path("file")).unwrap();
    assert!(write_tree_tar(tree.fd(), &index, None, Vec::new()).is_err());
}

/// A root that this process can own.
fn root_below() -> View {
    let mut root = Entry::directory("");
    (root.uid, root.gid) = own_ids();
    View::new(vec![Arc::new(Index::new(vec![root]))])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Tar, index, tree and tar again hold the same.
    #[test]
    fn any_layer_survives_being_extracted(layer in any_layer(false)) {
        let (tar, index) = layer.tar();
        let tree = Tree::new();
        let extracted = extract(tar.as_slice(), tree.fd(), &own_form(), &root_below()).unwrap();
        prop_assert_eq!(&extracted, &index);
        let read = index_tree(tree.fd(), &own_form(), &root_below(), &Owners::supervised(), &no_lower).unwrap();
        let (again, written) = write_tree_tar(tree.fd(), &read, None, Vec::new()).unwrap();
        prop_assert_eq!(&written, &index);
        prop_assert!(again == tar);
    }

    /// A layer's tree, read as an upper directory, changes the view below as the layer does; and
    /// what was read is the same when it is extracted and read once more.
    #[test]
    fn any_difference_is_found_and_stays(base in any_layer(false), layer in any_layer(true)) {
        let mut root = Layer::default();
        root.entries.push(root_below().get(b"").unwrap().entry.clone());
        let mut below = Below::new(&[root, base]);
        let upper = Tree::new();
        let index = extract(layer.tar().0.as_slice(), upper.fd(), &own_form(), &below.view).unwrap();
        let found = below.index(upper.fd());
        let stack = |top: &Index| {
            let mut view = below.view.clone();
            view.push(Arc::new(top.clone()));
            lines(&view)
        };
        prop_assert_eq!(stack(&found), stack(&index));
        let opaque = EntryKind::Directory { opaque: true };
        prop_assert!(found.entries.iter().all(|entry| entry.kind != opaque));

        let (tar, _) = write_tree_tar(upper.fd(), &found, None, Vec::new()).unwrap();
        let second = Tree::new();
        extract(tar.as_slice(), second.fd(), &own_form(), &below.view).unwrap();
        below.contents.push(layer.contents);
        let found_again = below.index(second.fd());
        let (tar_again, _) = write_tree_tar(second.fd(), &found_again, None, Vec::new()).unwrap();
        prop_assert_eq!(shorthand(&found_again), shorthand(&found));
        prop_assert!(tar_again == tar);
    }
}
