use super::*;

/// A layer in shorthand, one entry per word: `d:path` directory, `o:path` opaque directory,
/// `f:path` file, `l:path=target` symbolic link, `h:path=target` hard link, `w:path` whiteout.
/// The root is written `d:` or `o:`.
fn layer(text: &str) -> Arc<Index> {
    Arc::new(Index::new(text.split_whitespace().map(entry).collect()))
}

fn entry(word: &str) -> Entry {
    let (kind, rest) = word.split_once(':').unwrap();
    let (path, link) = rest.split_once('=').unwrap_or((rest, ""));
    let kind = match kind {
        "d" => EntryKind::Directory { opaque: false },
        "o" => EntryKind::Directory { opaque: true },
        "f" => EntryKind::File,
        "l" => EntryKind::Symlink,
        "h" => EntryKind::HardLink,
        "w" => EntryKind::Whiteout,
        other => panic!("unknown kind {other}"),
    };
    let mut entry = Entry::new(path, kind);
    entry.link = link.into();
    entry
}

fn view(layers: &[&str]) -> View {
    View::new(layers.iter().map(|text| layer(text)).collect())
}

/// The whole view as `path@layer`, directories with a slash.
fn shown_tree(view: &View) -> String {
    view.walk(b"")
        .into_iter()
        .skip(1)
        .map(|(path, found)| {
            let slash = if found.entry.is_directory() { "/" } else { "" };
            assert_eq!(view.get(&path), Some(found), "walk and get disagree");
            assert_eq!(found.entry.path, path, "entry of another path");
            format!(
                "{}{slash}@{}",
                String::from_utf8(path).unwrap(),
                found.layer
            )
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn layers_merge_as_an_overlay_does() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("nothing", &[], ""),
        ("one layer", &["d:a f:a/x"], "a/@0 a/x@0"),
        (
            "directories merge",
            &["d:a f:a/x", "d:a f:a/y"],
            "a/@1 a/x@0 a/y@1",
        ),
        (
            "files replace",
            &["d:a f:a/x f:a/y", "d:a f:a/x"],
            "a/@1 a/x@1 a/y@0",
        ),
        ("whiteout", &["d:a f:a/x f:a/y", "d:a w:a/x"], "a/@1 a/y@0"),
        (
            "whiteout of a directory",
            &["d:a d:a/b f:a/b/c", "d:a w:a/b"],
            "a/@1",
        ),
        (
            "whiteout, then anew",
            &["d:a f:a/x", "w:a", "d:a f:a/y"],
            "a/@2 a/y@2",
        ),
        ("whiteout of nothing", &["f:x", "w:y"], "x@0"),
        (
            "a name that only starts alike",
            &["f:a f:a-b f:ab", "w:a"],
            "a-b@0 ab@0",
        ),
        (
            "opaque directory",
            &["d:a f:a/x d:a/b f:a/b/c", "o:a f:a/y"],
            "a/@1 a/y@1",
        ),
        (
            "opaque far above",
            &["d:a d:a/b f:a/b/x", "o:a d:a/b f:a/b/y"],
            "a/@1 a/b/@1 a/b/y@1",
        ),
        (
            "opaque hides only lower layers",
            &["f:a", "o:a f:a/y", "d:a f:a/z"],
            "a/@2 a/y@1 a/z@2",
        ),
        ("opaque root", &["f:x d:a", "o: f:y"], "y@1"),
        ("file over directory", &["d:a f:a/x", "f:a"], "a@1"),
        ("link over directory", &["d:a f:a/x", "l:a=b"], "a@1"),
        (
            "directory over file over directory",
            &["d:a f:a/x", "f:a", "d:a f:a/y"],
            "a/@2 a/y@2",
        ),
        (
            "directory over link",
            &["l:a=b f:b", "d:a f:a/x"],
            "a/@1 a/x@1 b@0",
        ),
        ("implied directory", &["f:a/b/x"], "a/@0 a/b/@0 a/b/x@0"),
        (
            "implied directory keeps the lower one",
            &["d:a f:a/x", "f:a/y"],
            "a/@0 a/x@0 a/y@1",
        ),
        (
            "implied directory over file",
            &["f:a", "f:a/y"],
            "a/@1 a/y@1",
        ),
        (
            "implied directory over whiteout",
            &["d:a f:a/x", "w:a", "f:a/y"],
            "a/@2 a/y@2",
        ),
        (
            "implied directory inside opaque",
            &["d:a d:a/b f:a/b/x", "o:a f:a/b/y"],
            "a/@1 a/b/@1 a/b/y@1",
        ),
        (
            "implied over implied over explicit",
            &["d:a", "f:a/x", "f:a/y"],
            "a/@0 a/x@1 a/y@2",
        ),
        (
            "deep whiteout implies its parents",
            &["d:a d:a/b f:a/b/x", "w:a/b/x"],
            "a/@0 a/b/@0",
        ),
    ];
    for (name, layers, expected) in cases {
        assert_eq!(shown_tree(&view(layers)), *expected, "{name}");
    }
}

#[test]
fn the_root_is_always_there() {
    let empty = View::default();
    let root = empty.get(b"").unwrap();
    assert!(root.entry.is_directory());
    assert_eq!(
        (root.entry.mode, root.entry.uid, root.entry.mtime),
        (0o755, 0, 0)
    );

    let mut own = entry("d:");
    own.mode = 0o700;
    let stack = View::new(vec![Arc::new(Index::new(vec![own])), layer("f:x")]);
    assert_eq!(stack.get(b"").unwrap().entry.mode, 0o700);
}

#[test]
fn pushing_equals_building_at_once() {
    let mut pushed = View::default();
    pushed.push(layer("d:a f:a/x"));
    pushed.push(layer("w:a"));
    assert_eq!(shown_tree(&pushed), "");
    assert_eq!(pushed.layers().len(), 2);
}

#[test]
fn paths_resolve_inside_the_root() {
    let stack = view(&[
        "d:usr d:usr/bin f:usr/bin/sh l:bin=usr/bin l:abs=/usr l:up=../../.. l:usr/rel=../usr/bin \
         l:loop=loop l:ping=pong l:pong=ping l:dangling=usr/none/deep f:file",
        "d:opt l:opt/tool=/bin/sh l:chain=abs l:self=. l:tofile=file",
    ]);
    // path, follow the last component, where it leads, whether something is there
    let cases = [
        ("", true, "", true),
        ("/", true, "", true),
        ("usr/bin/sh", true, "usr/bin/sh", true),
        ("//usr///bin/./sh", true, "usr/bin/sh", true),
        ("bin", false, "bin", true),
        ("bin", true, "usr/bin", true),
        ("bin/", false, "usr/bin", true),
        ("bin/.", false, "usr/bin", true),
        ("bin/sh", false, "usr/bin/sh", true),
        ("opt/tool", true, "usr/bin/sh", true),
        ("chain/bin", true, "usr/bin", true),
        ("usr/rel/sh", true, "usr/bin/sh", true),
        ("self/self/file", true, "file", true),
        ("..", true, "", true),
        ("../../usr", true, "usr", true),
        ("up/file", true, "file", true),
        ("usr/bin/..", true, "usr", true),
        ("bin/..", true, "usr", true),
        ("none", true, "none", false),
        ("bin/none/deep", true, "usr/bin/none/deep", false),
        ("none/../usr", true, "usr", true),
        ("none/deep/../../bin", true, "usr/bin", true),
        ("dangling", true, "usr/none/deep", false),
        ("dangling/x", true, "usr/none/deep/x", false),
        ("tofile", true, "file", true),
    ];
    for (path, follow, expected, exists) in cases {
        let resolved = stack.resolve(path.as_bytes(), follow).unwrap();
        assert_eq!(String::from_utf8_lossy(&resolved.path), expected, "{path}");
        assert_eq!(resolved.found.is_some(), exists, "{path}");
    }
}

#[test]
fn paths_that_lead_nowhere_are_errors() {
    let stack = view(&[
        "f:file l:loop=loop l:a=b l:b=a l:tofile=file l:fork=fork2/fork2 l:fork2=fork/fork",
    ]);
    for path in ["loop", "a", "a/x", "fork"] {
        assert!(
            matches!(
                stack.resolve(path.as_bytes(), true),
                Err(ViewError::LinkLoop(_))
            ),
            "{path}"
        );
    }
    assert!(stack.resolve(b"loop", false).is_ok());
    for path in ["file/x", "tofile/x", "file/x/.."] {
        assert!(
            matches!(
                stack.resolve(path.as_bytes(), true),
                Err(ViewError::NotADirectory { .. })
            ),
            "{path}"
        );
    }
}

#[test]
fn hard_links_lead_to_the_file_of_their_own_layer() {
    let stack = view(&["f:a h:b=a h:c=none", "f:a"]);
    let b = stack.get(b"b").unwrap();
    let inode = stack.inode(b).unwrap();
    assert_eq!((inode.layer, inode.entry.path.as_slice()), (0, &b"a"[..]));
    assert_eq!(stack.inode(stack.get(b"c").unwrap()), None);
    assert_eq!(stack.inode(stack.get(b"a").unwrap()), stack.get(b"a"));
}

#[test]
fn user_databases_come_from_the_layer_whose_file_shows() {
    let with = |content: &str| {
        let mut index = Index::new(vec![entry("d:etc"), entry("f:etc/passwd")]);
        index.passwd = Some(content.into());
        Arc::new(index)
    };
    let mut stack = View::new(vec![with("one"), with("two"), layer("f:x")]);
    assert_eq!(stack.passwd(), Some(&b"two"[..]));
    assert_eq!(stack.group(), None);
    stack.push(layer("w:etc/passwd"));
    assert_eq!(stack.passwd(), None);
    stack.push(with("three"));
    assert_eq!(stack.passwd(), Some(&b"three"[..]));
    stack.push(layer("l:etc/passwd=/file"));
    assert_eq!(stack.passwd(), None);
}

mod against_a_model {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap as Map;

    /// A file system as plain data: path → (is a directory, layer that gave the attributes).
    type Model = Map<Vec<u8>, (bool, usize)>;

    fn remove(model: &mut Model, path: &[u8], itself: bool) {
        model.retain(|p, _| !(is_inside(p, path) || itself && p == path));
    }

    /// Applies a layer the slow and obvious way.
    fn apply(model: &mut Model, index: &Index, layer: usize) {
        for entry in &index.entries {
            if entry.is_whiteout() {
                remove(model, &entry.path, true);
            } else if entry.kind == (EntryKind::Directory { opaque: true }) {
                remove(model, &entry.path, false);
            }
        }
        for entry in &index.entries {
            for parent in ancestors(&entry.path) {
                if model.get(parent).is_none_or(|&(directory, _)| !directory) {
                    model.insert(parent.to_vec(), (true, layer));
                }
            }
            if entry.is_whiteout() {
                continue;
            }
            if !entry.is_directory() {
                remove(model, &entry.path, true);
            }
            model.insert(entry.path.clone(), (entry.is_directory(), layer));
        }
    }

    fn any_layer() -> impl Strategy<Value = Index> {
        let path = prop::collection::vec(prop::sample::select(vec!["a", "b", "a-"]), 1..4)
            .prop_map(|parts| parts.join("/"));
        let kind = prop::sample::select(vec!["f", "d", "o", "w"]);
        prop::collection::vec((kind, path), 0..8).prop_map(|words| {
            let mut entries = Index::new(
                words
                    .into_iter()
                    .map(|(kind, path)| entry(&format!("{kind}:{path}")))
                    .collect(),
            )
            .entries;
            // A well-formed layer has nothing inside what is no directory.
            let blockers: Vec<Vec<u8>> = entries
                .iter()
                .filter(|e| !e.is_directory())
                .map(|e| e.path.clone())
                .collect();
            entries.retain(|e| !blockers.iter().any(|b| is_inside(&e.path, b)));
            Index::new(entries)
        })
    }

    proptest! {
        #[test]
        fn any_stack_shows_what_applying_it_gives(layers in prop::collection::vec(any_layer(), 0..5)) {
            let mut model = Model::new();
            for (i, index) in layers.iter().enumerate() {
                apply(&mut model, index, i);
            }
            let stack = View::new(layers.into_iter().map(Arc::new).collect());
            let walked: Model = stack
                .walk(b"")
                .into_iter()
                .skip(1)
                .map(|(path, found)| (path, (found.entry.is_directory(), found.layer)))
                .collect();
            prop_assert_eq!(&walked, &model);
            for (path, expected) in &model {
                let found = stack.get(path).unwrap();
                prop_assert_eq!((found.entry.is_directory(), found.layer), *expected);
            }
            for path in ["a", "b", "a-", "a/a", "a/b/a", "b/b/b"] {
                prop_assert_eq!(stack.get(path.as_bytes()).is_some(), model.contains_key(path.as_bytes()));
            }
        }
    }
}
