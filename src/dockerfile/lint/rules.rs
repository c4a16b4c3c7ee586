//! The rules: BuildKit's names, descriptions and pages, by which users know and skip them.

/// One build check.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// `StageNameCasing`.
    StageNameCasing,
    /// `FromAsCasing`.
    FromAsCasing,
    /// `NoEmptyContinuation`.
    NoEmptyContinuation,
    /// `ConsistentInstructionCasing`.
    ConsistentInstructionCasing,
    /// `DuplicateStageName`.
    DuplicateStageName,
    /// `ReservedStageName`.
    ReservedStageName,
    /// `JSONArgsRecommended`.
    JsonArgsRecommended,
    /// `MaintainerDeprecated`.
    MaintainerDeprecated,
    /// `UndefinedArgInFrom`.
    UndefinedArgInFrom,
    /// `WorkdirRelativePath`.
    WorkdirRelativePath,
    /// `UndefinedVar`.
    UndefinedVar,
    /// `MultipleInstructionsDisallowed`.
    MultipleInstructionsDisallowed,
    /// `LegacyKeyValueFormat`.
    LegacyKeyValueFormat,
    /// `InvalidBaseImagePlatform`.
    InvalidBaseImagePlatform,
    /// `RedundantTargetPlatform`.
    RedundantTargetPlatform,
    /// `SecretsUsedInArgOrEnv`.
    SecretsUsedInArgOrEnv,
    /// `InvalidDefaultArgInFrom`.
    InvalidDefaultArgInFrom,
    /// `FromPlatformFlagConstDisallowed`.
    FromPlatformFlagConstDisallowed,
    /// `CopyIgnoredFile`.
    CopyIgnoredFile,
    /// `InvalidDefinitionDescription`.
    InvalidDefinitionDescription,
    /// `ExposeProtoCasing`.
    ExposeProtoCasing,
    /// `ExposeInvalidFormat`.
    ExposeInvalidFormat,
}

/// Where BuildKit's rules are explained, each on a page of its own.
const PAGES: &str = "https://docs.docker.com/go/dockerfile/rule/";

/// What there is to know of a rule: its name, its page (empty where it has none), its description.
struct Facts(&'static str, &'static str, &'static str);

impl Rule {
    /// Every rule, in BuildKit's order.
    pub const ALL: [Self; 22] = [
        Self::StageNameCasing,
        Self::FromAsCasing,
        Self::NoEmptyContinuation,
        Self::ConsistentInstructionCasing,
        Self::DuplicateStageName,
        Self::ReservedStageName,
        Self::JsonArgsRecommended,
        Self::MaintainerDeprecated,
        Self::UndefinedArgInFrom,
        Self::WorkdirRelativePath,
        Self::UndefinedVar,
        Self::MultipleInstructionsDisallowed,
        Self::LegacyKeyValueFormat,
        Self::InvalidBaseImagePlatform,
        Self::RedundantTargetPlatform,
        Self::SecretsUsedInArgOrEnv,
        Self::InvalidDefaultArgInFrom,
        Self::FromPlatformFlagConstDisallowed,
        Self::CopyIgnoredFile,
        Self::InvalidDefinitionDescription,
        Self::ExposeProtoCasing,
        Self::ExposeInvalidFormat,
    ];

    /// The name that users skip it by.
    pub const fn name(self) -> &'static str {
        self.facts().0
    }

    /// What it asks for, whatever the Dockerfile.
    pub const fn description(self) -> &'static str {
        self.facts().2
    }

    /// The page that explains it.
    pub fn url(self) -> Option<String> {
        let page = self.facts().1;
        (!page.is_empty()).then(|| format!("{PAGES}{page}/"))
    }

    /// Whether it is looked at only where the user asks for it.
    pub const fn is_experimental(self) -> bool {
        matches!(self, Self::InvalidDefinitionDescription)
    }

    const fn facts(self) -> Facts {
        match self {
            Self::StageNameCasing => Facts(
                "StageNameCasing",
                "stage-name-casing",
                "Stage names should be lowercase",
            ),
            Self::FromAsCasing => Facts(
                "FromAsCasing",
                "from-as-casing",
                "The 'as' keyword should match the case of the 'from' keyword",
            ),
            Self::NoEmptyContinuation => Facts(
                "NoEmptyContinuation",
                "no-empty-continuation",
                "Empty continuation lines will become errors in a future release",
            ),
            Self::ConsistentInstructionCasing => Facts(
                "ConsistentInstructionCasing",
                "consistent-instruction-casing",
                "All commands within the Dockerfile should use the same casing (either upper or lower)",
            ),
            Self::DuplicateStageName => Facts(
                "DuplicateStageName",
                "duplicate-stage-name",
                "Stage names should be unique",
            ),
            Self::ReservedStageName => Facts(
                "ReservedStageName",
                "reserved-stage-name",
                "Reserved words should not be used as stage names",
            ),
            Self::JsonArgsRecommended => Facts(
                "JSONArgsRecommended",
                "json-args-recommended",
                "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
            ),
            Self::MaintainerDeprecated => Facts(
                "MaintainerDeprecated",
                "maintainer-deprecated",
                "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
            ),
            Self::UndefinedArgInFrom => Facts(
                "UndefinedArgInFrom",
                "undefined-arg-in-from",
                "FROM command must use declared ARGs",
            ),
            Self::WorkdirRelativePath => Facts(
                "WorkdirRelativePath",
                "workdir-relative-path",
                "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
            ),
            Self::UndefinedVar => Facts(
                "UndefinedVar",
                "undefined-var",
                "Variables should be defined before their use",
            ),
            Self::MultipleInstructionsDisallowed => Facts(
                "MultipleInstructionsDisallowed",
                "multiple-instructions-disallowed",
                "Multiple instructions of the same type should not be used in the same stage",
            ),
            Self::LegacyKeyValueFormat => Facts(
                "LegacyKeyValueFormat",
                "legacy-key-value-format",
                "Legacy key/value format with whitespace separator should not be used",
            ),
            Self::InvalidBaseImagePlatform => Facts(
                "InvalidBaseImagePlatform",
                "",
                "Base image platform does not match expected target platform",
            ),
            Self::RedundantTargetPlatform => Facts(
                "RedundantTargetPlatform",
                "redundant-target-platform",
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            ),
            Self::SecretsUsedInArgOrEnv => Facts(
                "SecretsUsedInArgOrEnv",
                "secrets-used-in-arg-or-env",
                "Sensitive data should not be used in the ARG or ENV commands",
            ),
            Self::InvalidDefaultArgInFrom => Facts(
                "InvalidDefaultArgInFrom",
                "invalid-default-arg-in-from",
                "Default value for global ARG results in an empty or invalid base image name",
            ),
            Self::FromPlatformFlagConstDisallowed => Facts(
                "FromPlatformFlagConstDisallowed",
                "from-platform-flag-const-disallowed",
                "FROM --platform flag should not use a constant value",
            ),
            Self::CopyIgnoredFile => Facts(
                "CopyIgnoredFile",
                "copy-ignored-file",
                "Attempting to Copy file that is excluded by .dockerignore",
            ),
            Self::InvalidDefinitionDescription => Facts(
                "InvalidDefinitionDescription",
                "invalid-definition-description",
                "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
            ),
            Self::ExposeProtoCasing => Facts(
                "ExposeProtoCasing",
                "expose-proto-casing",
                "Protocol in EXPOSE instruction should be lowercase",
            ),
            Self::ExposeInvalidFormat => Facts(
                "ExposeInvalidFormat",
                "expose-invalid-format",
                "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
            ),
        }
    }
}
