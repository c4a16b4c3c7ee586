//! The harness itself: its reader agrees with other tools on an image that rbuild did not make.

use std::process::Command;

use crate::support::{
    Containerd, Image, READERS, Registry, Tree, assert_lines, base_image_mirror, dedent, needs,
    podman_tree, run_with_timeout, umoci_tree,
};

#[test]
fn texts_are_dedented() {
    assert_eq!(dedent("\n    a\n      b\n\n    c\n    "), "a\n  b\n\nc\n");
    assert_eq!(dedent("a\n"), "a\n");
    assert_eq!(dedent(""), "");
}

#[test]
#[should_panic(expected = "  a\n- b\n+ c\n  d\n")]
fn differences_are_marked() {
    assert_lines("a\nc\nd\n", "a\nb\nd\n");
}

#[test]
fn four_readers_agree_on_a_base_image() {
    if !needs(&READERS) {
        return;
    }
    let mirror = base_image_mirror().unwrap().trim_start_matches("http://");
    let registry = Registry::start();
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("debian.tar");
    for target in [
        format!("oci-archive:{}", archive.display()),
        format!("docker://{}", registry.name("debian:test")),
    ] {
        let mut copy = Command::new("skopeo");
        copy.args([
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
        ])
        .arg(format!("docker://{mirror}/library/debian"))
        .arg(target);
        run_with_timeout(copy, None).ok();
    }
    let own = Image::read(&archive).tree();
    assert_eq!(own.get("usr/bin/passwd").mode, 0o4755);
    assert!(own.has("dev/null"));
    let others: [(&str, Tree); 3] = [
        ("umoci", umoci_tree(&registry, "debian:test")),
        ("podman", podman_tree(&registry, "debian:test")),
        (
            "containerd",
            Containerd::start().tree(&registry, "debian:test"),
        ),
    ];
    for (tool, tree) in others {
        println!("{tool}");
        assert_lines(&tree.all(), &own.all());
    }
}
