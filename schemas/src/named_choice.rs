//! Options with a few named values.

/// Declares an enum whose variants have the same names on the command line, in files, and in
/// messages.
///
/// ```
/// scrl_schemas::named_choice! {
///     /// Which way is up.
///     pub enum Up {
///         /// Away from the ground.
///         Sky = "sky",
///         /// Towards it.
///         Ground = "ground",
///     }
/// }
/// assert_eq!("sky".parse(), Ok(Up::Sky));
/// assert_eq!("sideways".parse::<Up>().unwrap_err(), "\"sideways\" is none of sky, ground");
/// assert_eq!(Up::Ground.to_string(), "ground");
/// ```
///
/// The crate that uses it needs `serde` with its derive macros.
#[macro_export]
macro_rules! named_choice {
    ($(#[$doc:meta])* pub enum $name:ident {
        $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ::serde::Serialize, ::serde::Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// Every choice, in the order shown to users.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name used on the command line and in files.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> ::std::result::Result<Self, String> {
                Self::ALL.iter().copied().find(|choice| choice.name() == text).ok_or_else(|| {
                    let names: Vec<_> = Self::ALL.iter().map(|choice| choice.name()).collect();
                    format!("{text:?} is none of {}", names.join(", "))
                })
            }
        }
    };
}
