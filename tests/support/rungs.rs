//! The kinds of isolation that a step can have here, each with a user who gets it.

use super::{Rbuild, User, skip, user};

/// A rung of the isolation ladder.
#[derive(Clone, Debug)]
pub(crate) struct Rung {
    /// As `--isolation` names it.
    pub(crate) name: &'static str,
    /// Whoever runs rbuild.
    pub(crate) user: User,
}

impl Rung {
    /// An rbuild with an empty store whose steps have this isolation.
    pub(crate) fn rbuild(&self) -> Rbuild {
        Rbuild::new(&self.user).env("RBUILD_ISOLATION", self.name)
    }

    /// Whether one id of the machine stands for all of an image's, and a supervisor keeps owners.
    pub(crate) fn is_supervised(&self) -> bool {
        self.name == "userns-single"
    }
}

/// Runs a case on every rung that works here, and says which don't.
pub(crate) fn each_rung(case: impl Fn(&Rung)) {
    let mut rungs = Vec::new();
    if user::is_root() {
        rungs.push(Rung {
            name: "root",
            user: User::Caller,
        });
        match user::test_user() {
            Some(user) => rungs.push(Rung {
                name: "userns",
                user,
            }),
            None => skip("not tried in a user namespace: no user for it"),
        }
        rungs.push(Rung {
            name: "userns-single",
            user: User::stranger(),
        });
    } else {
        for name in ["userns", "userns-single"] {
            rungs.push(Rung {
                name,
                user: User::Caller,
            });
        }
    }
    for rung in rungs {
        if rung.rbuild().run(["doctor"]).status.success() {
            case(&rung);
        } else {
            skip(&format!("the isolation {} doesn't work here", rung.name));
        }
    }
}
