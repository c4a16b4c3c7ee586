//! What the file system of a step is made of makes no difference to the image.

use std::process::Command;

use crate::support::{
    Finished, Image, Need, Project, Rbuild, User, each_rung, each_user, needs, run_with_timeout,
    skip,
};

/// Every way of changing a file system, on top of layers that an image and COPY have made.
const CHANGES: &str = r#"
    FROM busybox AS changes
    COPY base/ /base/
    COPY --chmod=755 base/file /base/script
    RUN mkdir /links && cd /links && echo linked > a && ln a b && ln a c && mkdir -p d/deep && echo x > d/deep/x
    RUN echo created > /created && echo more >> /base/file && rm /base/gone
    RUN echo new > /links/b
    RUN ln /links/a /links/e && rm /links/c
    RUN rm -r /links/d && echo file > /links/d
    RUN rm /links/d && mkdir /links/d && echo y > /links/d/y
    RUN ln -sfn /elsewhere /base/link && mkfifo /pipe
    RUN chmod 600 /base/kept
    RUN chown -R 33:44 /base && chown -h 5:6 /base/link
    RUN rm -rf /base/dir && mkdir /base/dir && echo opaque > /base/dir/new
    RUN cp /bin/busybox /usr/bin/set-id && chmod 6755 /usr/bin/set-id
    RUN chmod 700 /base/script && chmod 755 /base/script
    RUN touch /etc/nothing && rm /etc/nothing
    RUN rm -rf /var/* ; mkdir -p /var/cache
    WORKDIR /made/for/this
    RUN ["busybox", "true"]
    RUN pwd > here
    RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/tmp/memory --mount=type=bind,source=base,target=/shown --mount=type=bind,source=base/file,target=/shown-file,rw --mount=type=secret,id=secret sh -c 'cat /shown/file /shown-file /run/secrets/secret > /read; echo c >> /cache/count; cat /cache/count >> /read; echo t > /tmp/memory/t; echo w > /shown-file'
    RUN --mount=type=cache,target=/cache cat /cache/count >> /read && echo in > /tmp/in
    COPY base/kept /base/dir/
    RUN cat /base/dir/kept /base/dir/new > /base/both && rm -r /base/dir
    RUN mkdir /private && chmod 0 /private && echo p > /private/p
    RUN mv /base /moved
    FROM busybox AS all
    COPY --from=0 / /
    RUN find / -xdev -type f -perm -4000 > /found; test -s /read
"#;

const EPOCH: &str = "1720000000";

pub(crate) fn changes() -> Project {
    Project::with(CHANGES)
        .file("base/file", "file\n")
        .file("base/gone", "gone\n")
        .file("base/kept", "kept\n")
        .file("base/dir/old", "old\n")
        .symlink("base/link", "file")
        .file("secret", "secret\n")
}

/// Builds [`changes`] with a way of isolation and storage; gives both of its stages.
pub(crate) fn built(rbuild: &Rbuild, project: &Project, options: &[&str]) -> [Image; 2] {
    built_by(rbuild, project, options, &|command| {
        let mut again = Command::new(command.get_program());
        again.args(command.get_args()).env_clear();
        again.envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        again.current_dir(command.get_current_dir().unwrap());
        run_with_timeout(again, None)
    })
}

/// The same, with rbuild run by the caller.
pub(crate) fn built_by(
    rbuild: &Rbuild,
    project: &Project,
    options: &[&str],
    run: &dyn Fn(&Command) -> Finished,
) -> [Image; 2] {
    let secret = format!("id=secret,src={}", project.path().join("secret").display());
    let build = |target: &str| {
        let file = rbuild.out().join(format!("{target}.tar"));
        let output = format!("type=oci,rewrite-timestamp=true,dest={}", file.display());
        let build = rbuild.build(project).args(options).target(target);
        let build = build.build_arg(&format!("SOURCE_DATE_EPOCH={EPOCH}"));
        let build = build.args(["--secret", &secret, "-o", &output]);
        run(&build.command()).ok();
        Image::read(&file)
    };
    [build("changes"), build("all")]
}

pub(crate) fn assert_same_layers(one: &[Image; 2], other: &[Image; 2]) {
    for (one, other) in one.iter().zip(other) {
        let number = one.layers.len();
        assert_eq!(number, other.layers.len());
        for number in 0..number {
            let lines = |image: &Image| image.layers[number].lines();
            crate::support::assert_lines(&lines(other), &lines(one));
            assert_eq!(
                one.layers[number].diff_id, other.layers[number].diff_id,
                "{number}"
            );
        }
    }
}

#[test]
fn a_copied_folder_gives_the_layers_that_overlay_gives() {
    if !needs(&[Need::BaseImages, Need::Sandbox]) {
        return;
    }
    let project = changes();
    each_user(|user| {
        let overlay = built(
            &Rbuild::new(user),
            &project,
            &["--storage-driver", "overlay"],
        );
        let copy = built(&Rbuild::new(user), &project, &["--storage-driver", "copy"]);
        assert_same_layers(&overlay, &copy);
    });
}

/// The same as tmpfs before Linux 6.6: overlay takes it, and can't replace a folder there; no file can
/// say whose it is.
#[test]
fn a_store_without_attributes_serves_or_is_named() {
    if !needs(&[Need::BaseImages, Need::Root, Need::Program("unshare")]) {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN mkdir -p /folder/below && touch /folder/old /file && chown 5:6 /folder/old /file
        RUN rm -r /folder && mkdir /folder && touch /folder/new && ls /folder; stat -c %u:%g /file
        ",
    );
    each_rung(|rung| {
        let rbuild = rung.rbuild();
        let store = rbuild.store();
        let owner = match rung.user {
            User::Caller => 0,
            User::Other { uid, .. } => uid,
        };
        let script = format!(
            "mount -t ramfs none {0} && chown {owner} {0} || exit 99\nexec \"$@\"",
            store.display()
        );
        let build = rbuild.build(&project).command();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--", "sh", "-c", &script, "sh"]);
        command.arg(build.get_program()).args(build.get_args());
        let variables = build.get_envs();
        command.env_clear();
        command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(build.get_current_dir().unwrap());
        let finished = run_with_timeout(command, None);
        if finished.status.code() == Some(99) {
            return skip("no ramfs can be mounted");
        }
        match rung.is_supervised() {
            false => assert_eq!(finished.ok().output(), ["new", "5:6"], "{rung:?}"),
            true => drop(finished.fails().says(&[
                "the store's file system has no user attributes (tmpfs has none before Linux 6.6): \
                 use a folder elsewhere (`--root`)",
            ])),
        }
    });
}
