//! Owners beyond the ids that are lent to a user, and devices, made by steps that otherwise have real
//! owners. What the images have is in `testdata/language/run/owners.txt`.

use crate::support::{Image, Need, Project, Rbuild, User, as_other_user, each_user, needs};

const EPOCH: &str = "1500000000";

fn is_possible() -> bool {
    needs(&[Need::BaseImages, Need::Sandbox])
}

fn owners(image: &Image, paths: &[&str]) -> Vec<(u32, u32)> {
    let tree = image.tree();
    let nodes = paths.iter().map(|path| tree.get(path));
    nodes.map(|node| (node.uid, node.gid)).collect()
}

#[test]
fn layers_are_the_same_bytes_as_root_s() {
    if !is_possible() {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN mkdir -p /d/sub && echo x >/d/f && ln -s f /d/l && ln /d/f /d/sub/h && chown -hR 1234567890:5 /d
        RUN mknod /c c 1 3 && mknod -m 600 /b b 8 1 && chown :1234567890 /b && chown 1234567890 / && chgrp 7 /d \\
         && mkdir -m 2775 /g && chgrp 50 /g && mknod /g/n c 5 1
        RUN chown 0 / && chown -R 33:33 /d/sub && rm /c
        ",
    );
    let built = std::cell::RefCell::new(Vec::new());
    each_user(|user| {
        let (image, _) = Rbuild::new(user)
            .build(&project)
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .image_with_output("type=oci,rewrite-timestamp=true");
        built.borrow_mut().push(image.digest);
    });
    assert!(built.borrow().windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn who_is_unknown_to_the_kernel_lends_nobody_root_s_rights() {
    if !is_possible() {
        return;
    }
    let project = Project::with(
        "
        FROM debian
        RUN cp /bin/dash /tmp/sh && chown 1000660000:1000660000 /tmp/sh && chmod 6755 /tmp/sh \\
         && mkdir -m 700 /p && touch /p/f && chown -R 33:33 /p && touch /of-root && chmod 640 /of-root
        USER 1000:1000
        RUN test -u /tmp/sh; /tmp/sh -p -c 'cat /of-root' 2>/dev/null || echo refused
        USER 1000:1000660000
        RUN cat /of-root 2>/dev/null || echo refused
        USER 1000660000
        RUN perl -e 'my ($p, $a, $v) = (\"/p\", \"user.x\", \"y\"); print syscall(188, $p, $a, $v, 1, 0), \"\\n\"'; stat -c %u:%g /p
        ",
    );
    as_other_user(|user| {
        let log = Rbuild::new(user).build(&project).ok();
        assert_eq!(log.output(), ["refused", "refused", "-1", "33:33"]);
    });
}

#[test]
fn what_the_cache_has_is_known_as_what_was_just_made() {
    if !is_possible() {
        return;
    }
    let lines = [
        "FROM busybox",
        "RUN touch /f && chown 1234567890:5 /f && mknod /n c 1 3",
        "RUN stat -c '%n %u:%g %t,%T' /f /n && cp -a /f /g && cp -a /n /m",
    ];
    as_other_user(|user| {
        let rbuild = Rbuild::new(user);
        let first = lines[..2].join("\n");
        rbuild.build(&Project::new().file("Dockerfile", first)).ok();
        let all = Project::new().file("Dockerfile", lines.join("\n"));
        let (image, log) = rbuild.build(&all).image_and_log();
        assert_eq!(log.output(), ["/f 1234567890:5 0,0", "/n 0:0 1,3"]);
        assert_eq!(owners(&image, &["f", "g"]), [(1_234_567_890, 5); 2]);
        assert_eq!(image.tree().lines(&["m"]), "c 0644 0:0 m 1,3\n");
    });
}

#[test]
fn a_step_sees_who_stands_in_and_gives_on_what_it_sees() {
    if !is_possible() {
        return;
    }
    // busybox's chown gives the owner that it has seen, where it is told the group only.
    let project = Project::with(
        "
        FROM busybox
        RUN touch /f && chown 1234567890:5 /f && test $(stat -c %u /f) -gt 60000 && chown :6 /f && mknod /n c 1 3 \\
         && test -f /n && stat -c %s /n && mknod /dev/net c 10 200 && chroot / chown 1234567890 /n
        ",
    );
    as_other_user(|user| {
        let (image, log) = Rbuild::new(user).build(&project).image_and_log();
        assert_eq!(log.output(), ["0"]);
        assert_eq!(
            owners(&image, &["f", "n"]),
            [(1_234_567_890, 6), (1_234_567_890, 0)]
        );
    });
}

#[test]
fn nobody_writes_a_note_but_the_supervisor() {
    if !is_possible() {
        return;
    }
    // As elsewhere, the attribute may be set, and is nothing to the layer and to steps behind.
    let project = Project::with(
        r#"
        FROM debian
        RUN mkdir -m 777 /open && touch /mine && chown 33:33 /mine && chmod 4755 /mine
        USER 33
        RUN <<'EOF' perl -
              my ($name, $value) = ("user.containers.override_stat\0", "0:0:04755:file");
              open my $new, ">", "/open/new";
              for my $file ("/mine", "/open/new") {
                  my $path = "$file\0";
                  syscall(188, $path, $name, $value, length $value, 0);
              }
              # 133 is mknod, 92 chown, 94 lchown, 260 fchownat.
              for my $call ([133, "/open/device\0", 0020666, 0x103], [92, "/mine\0", 1234567890, -1],
                            [94, "/mine\0", -1, 1234567890], [260, -100, "/mine\0", 33, 1234567890, 0]) {
                  my ($number, @arguments) = @$call;
                  my $r = syscall($number, @arguments);
                  print $r == -1 ? $!{EPERM} ? "refused\n" : "$!\n" : "done\n";
              }
        EOF
        USER 0
        RUN stat -c '%n %u:%g' /mine /open/new
        "#,
    );
    each_user(|user| {
        let (image, log) = Rbuild::new(user).build(&project).image_and_log();
        let seen = [
            "refused",
            "refused",
            "refused",
            "refused",
            "/mine 33:33",
            "/open/new 33:33",
        ];
        assert_eq!(log.output(), seen, "{}", log.stderr);
        assert_eq!(owners(&image, &["mine", "open/new"]), [(33, 33); 2]);
    });
}

#[test]
fn an_ordinary_step_is_refused_what_others_may_not() {
    if !is_possible() {
        return;
    }
    let project = Project::with(
        r#"
        FROM debian
        RUN mkdir -m 777 /open && touch /f /open/f && chown 33 /open/f
        RUN <<'EOF' perl -
              sub says { my ($name, $r) = @_; print "$name ", $r == -1 ? $!+0 : "ok", "\n"; }
              my ($none, $file, $below, $theirs, $id) = ("/none\0", "/f\0", "/f/x\0", "/open/f\0", 1234567890);
              my ($empty, $nowhere, $proc, $gone) = ("\0", "/none/x\0", "/proc/x\0", "/gone\0");
              open my $open, "<", "/f";
              says("of nothing", syscall(92, $none, $id, $id));
              says("from nowhere", syscall(92, 8, $id, $id));
              says("of no descriptor", syscall(93, 77, $id, $id));
              says("with unknown flags", syscall(260, -100, $file, $id, $id, 1));
              says("below a file", syscall(92, $below, $id, $id));
              says("of a descriptor", syscall(260, fileno $open, $empty, $id, -1, 0x1000));
              says("a device in place of a file", syscall(133, $file, 0020600, 0x103));
              says("a device in no folder", syscall(133, $nowhere, 0020600, 0x103));
              says("a device in /proc", syscall(133, $proc, 0020600, 0x103));
              # What overlay takes for a deletion is made by overlay alone.
              says("a deletion", syscall(133, $gone, 0020600, 0));
              # Without rights, and with those of another user.
              my $user = fork() // die;
              if (!$user) { $) = "33 33"; $> = 33; says("by who may not", syscall(92, $theirs, $id, -1)); exit }
              waitpid $user, 0;
        EOF
        "#,
    );
    each_user(|user| {
        let log = Rbuild::new(user).build(&project).ok();
        let expected = [
            "of nothing 2",
            "from nowhere 14",
            "of no descriptor 9",
            "with unknown flags 22",
            "below a file 20",
            "of a descriptor ok",
            "a device in place of a file 17",
            "a device in no folder 2",
            "a device in /proc 2",
            "a deletion 1",
            "by who may not 1",
        ];
        assert_eq!(log.output(), expected, "as {user:?}: {}", log.stderr);
    });
}

/// Steps on images with such ids are asked about every owner; the kernel tells their users apart.
#[test]
fn a_user_of_a_supervised_step_has_no_more_rights_than_elsewhere() {
    if !is_possible() {
        return;
    }
    let project = Project::with(
        r#"
        FROM debian
        RUN mkdir -m 777 /open && touch /f /theirs /mine /group && chown 1234567890 /f && chown 33:33 /mine /group
        RUN chgrp 5 /group && stat -c %u:%g /group && mkdir -m 2775 /folder && chown 33:50 /folder
        USER 33
        RUN echo x >/folder/x && stat -c %u:%g /folder/x && chgrp 33 /folder/x
        RUN <<'EOF' perl -
              sub says { my ($name, $r) = @_; print "$name ", $r == -1 ? $!+0 : "ok", "\n"; }
              my ($mine, $theirs, $device) = ("/mine\0", "/theirs\0", "/open/device\0");
              my ($own, $capability, $value) = ("user.own\0", "security.capability\0", "\1\0\0\2" . "\0" x 16);
              says("take", syscall(92, $theirs, 33, 33));
              says("give away", syscall(92, $mine, 0, -1));
              says("give to the own group", syscall(92, $mine, -1, 33));
              says("a device", syscall(133, $device, 0020666, 0x103));
              says("an attribute", syscall(188, $mine, $own, $value, 2, 0));
              says("an attribute of another's", syscall(188, $theirs, $own, $value, 2, 0));
              says("no attribute", syscall(197, $mine, $own));
              says("a capability", syscall(188, $mine, $capability, $value, 20, 0));
        EOF
        "#,
    );
    each_user(|user| {
        let (image, log) = Rbuild::new(user).build(&project).image_and_log();
        assert_eq!(
            owners(&image, &["group", "folder", "folder/x"]),
            [(33, 5), (33, 50), (33, 33)]
        );
        let expected = [
            "33:5",
            "33:50",
            "take 1",
            "give away 1",
            "give to the own group ok",
            "a device 1",
            "an attribute ok",
            "an attribute of another's 13",
            "no attribute ok",
            "a capability 1",
        ];
        assert_eq!(log.output(), expected, "as {user:?}: {}", log.stderr);
    });
}

#[test]
fn many_processes_may_give_files_away_at_once() {
    if !is_possible() {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN for p in $(seq 1 30); do (for n in $(seq 1 20); do touch /f$p.$n; chown 10000$p:20000$n /f$p.$n; done) & done; wait
        RUN stat -c '%u.%g' /f* | sort >/seen; ls / | grep '^f' | sed 's/^f/10000/;s/[.]/.20000/' | sort | cmp - /seen && wc -l </seen
        ",
    );
    as_other_user(|user| {
        let log = Rbuild::new(user).build(&project).ok();
        assert_eq!(log.output(), ["600"]);
    });
}

#[test]
fn a_step_with_every_privilege_is_asked_nothing() {
    if !is_possible() {
        return;
    }
    let project = Project::with(
        "
        # syntax=docker/dockerfile:1-labs
        FROM busybox
        RUN --security=insecure touch /f; chown 1234567890 /f || echo refused
        ",
    );
    as_other_user(|user| {
        let rbuild = Rbuild::new(user);
        let build = rbuild.build(&project);
        let log = build.args(["--allow", "security.insecure"]).ok();
        assert!(
            log.output().iter().any(|line| line == "refused"),
            "{}",
            log.stderr
        );
    });
}

/// What was given to a user beyond the range is that user's, set-id bits and all.
#[test]
fn a_user_beyond_the_range_has_what_was_given_to_it() {
    if !is_possible() {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN mkdir -m 700 /app && echo x >/app/f && cp /bin/busybox /app/b && chown -R 1000660000:0 /app && chmod 6711 /app/b
        USER 1000660000
        RUN cat /app/f && echo y >/app/g && stat -c '%u:%g %a' /app /app/f /app/g /app/b
        ",
    );
    each_user(|user| {
        let (image, log) = Rbuild::new(user).build(&project).image_and_log();
        let seen = [
            "x",
            "1000660000:0 700",
            "1000660000:0 644",
            "1000660000:0 644",
            "1000660000:0 6711",
        ];
        assert_eq!(log.output(), seen, "{}", log.stderr);
        assert_eq!(owners(&image, &["app/g", "app/b"]), [(1_000_660_000, 0); 2]);
    });
}

/// A folder of its own in place of an overlay, in which steps go on where the last one ended.
#[test]
fn a_folder_keeps_them_as_an_overlay_does() {
    if !is_possible() {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN --mount=type=cache,target=/cache touch /f /cache/f && chown 1234567890:5 /f /cache/f && mknod /n c 1 3
        RUN stat -c '%n %u:%g %t,%T' /f /n && chown 0 /f
        RUN stat -c '%n %u:%g' /f
        ",
    );
    as_other_user(|user: &User| {
        let rbuild = Rbuild::new(user);
        let build = rbuild.build(&project);
        let log = build.args(["--storage-driver", "copy"]).ok();
        let seen = ["/f 1234567890:5 0,0", "/n 0:0 1,3", "/f 0:5"];
        assert_eq!(log.output(), seen, "{}", log.stderr);
    });
}
