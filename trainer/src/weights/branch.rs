//! The two networks of a checkpoint.

use scrl_schemas::named_choice;

named_choice! {
    /// One of the two networks.
    pub enum Branch {
        /// The network that is trained.
        Online = "online",
        /// Its EMA.
        Target = "target",
    }
}

impl Branch {
    /// The other network.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Online => Self::Target,
            Self::Target => Self::Online,
        }
    }

    /// The prefix of its backbone's tensors in a checkpoint.
    pub(super) fn backbone(self) -> &'static str {
        match self {
            Self::Online => "online.backbone.",
            Self::Target => "target.backbone.",
        }
    }
}
