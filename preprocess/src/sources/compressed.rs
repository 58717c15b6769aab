//! Archives that are not read as they are, and how to unpack them.
//!
//! Every epoch reads the images in another order. A compressed tar archive can only be read from
//! its beginning, so each image would cost the decompression of all before it.

/// A kind of archive.
pub(super) struct Packed {
    /// How its content begins.
    magic: &'static [u8],
    /// The endings of such a file, each with that of the file it becomes.
    endings: &'static [(&'static str, &'static str)],
    /// The command that unpacks it and keeps it.
    command: &'static str,
}

const KINDS: [Packed; 6] = [
    Packed {
        magic: b"\x1F\x8B",
        endings: &[("tar.gz", "tar"), ("tgz", "tar"), ("gz", "")],
        command: "gzip -dk",
    },
    Packed {
        magic: b"\x28\xB5\x2F\xFD",
        endings: &[("tar.zst", "tar"), ("tzst", "tar"), ("zst", "")],
        command: "zstd -d",
    },
    Packed {
        magic: b"\xFD7zXZ\0",
        endings: &[("tar.xz", "tar"), ("txz", "tar"), ("xz", "")],
        command: "xz -dk",
    },
    Packed {
        magic: b"BZh",
        endings: &[("tar.bz2", "tar"), ("tbz2", "tar"), ("tbz", "tar"), ("bz2", "")],
        command: "bzip2 -dk",
    },
    Packed { magic: b"7z\xBC\xAF\x27\x1C", endings: &[("7z", "/")], command: "7z x" },
    Packed { magic: b"Rar!\x1A\x07", endings: &[("rar", "/")], command: "unrar x" },
];

/// What to do with a file that is an archive by its first bytes, if it is.
pub(super) fn by_content(head: &[u8], name: &str) -> Option<String> {
    let packed = KINDS.iter().find(|packed| head.starts_with(packed.magic))?;
    Some(packed.advice(name))
}

/// What to do with a file that is an archive by its name, if it is.
pub(super) fn by_name(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let packed = KINDS.iter().find(|packed| packed.becomes(&lower).is_some());
    packed.map(|packed| packed.advice(name)).or_else(|| join_parts(name, &lower))
}

/// How to make one zip archive of several parts.
fn join_parts(name: &str, lower: &str) -> Option<String> {
    let (stem, ending) = lower.rsplit_once('.')?;
    let stem = &name[..stem.len()];
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if ending.strip_prefix('z').is_some_and(is_number) {
        return Some(format!("join the parts: zip -s 0 {stem}.zip --out whole.zip"));
    }
    let of_archive = [".zip", ".tar", ".7z", ".gz"].iter().any(|it| stem.ends_with(it));
    (of_archive && is_number(ending)).then(|| format!("join the parts: cat {stem}.* > {stem}"))
}

impl Packed {
    /// The name without the ending of such a file, and the ending of what is in it.
    fn becomes<'a>(&self, lower: &'a str) -> Option<(&'a str, &'static str)> {
        self.endings.iter().find_map(|&(ending, becomes)| {
            Some((lower.strip_suffix(ending)?.strip_suffix('.')?, becomes))
        })
    }

    fn advice(&self, name: &str) -> String {
        let command = self.command;
        let (stem, becomes) = match self.becomes(&name.to_ascii_lowercase()) {
            Some((stem, becomes)) => (&name[..stem.len()], becomes),
            None => (name, "?"),
        };
        match becomes {
            "/" => format!("unpack it with {command} {name} and give the folder"),
            "?" => format!("unpack it first ({command} reads it) and give what it holds"),
            "" => format!("unpack it with {command} {name} and give {stem}"),
            becomes => format!(
                "unpack it with {command} {name}, which makes {stem}.{becomes}, and give that"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_archive_has_its_command() {
        for (name, expected) in [
            (
                "train.tar.gz",
                "unpack it with gzip -dk train.tar.gz, which makes train.tar, and give that",
            ),
            (
                "Train.TGZ",
                "unpack it with gzip -dk Train.TGZ, which makes Train.tar, and give that",
            ),
            ("a.tar.zst", "unpack it with zstd -d a.tar.zst, which makes a.tar, and give that"),
            ("a.txz", "unpack it with xz -dk a.txz, which makes a.tar, and give that"),
            ("a.tar.bz2", "unpack it with bzip2 -dk a.tar.bz2, which makes a.tar, and give that"),
            ("list.txt.gz", "unpack it with gzip -dk list.txt.gz and give list.txt"),
            ("a.7z", "unpack it with 7z x a.7z and give the folder"),
            ("a.rar", "unpack it with unrar x a.rar and give the folder"),
            ("train.z01", "join the parts: zip -s 0 train.zip --out whole.zip"),
            ("train.zip.001", "join the parts: cat train.zip.* > train.zip"),
        ] {
            assert_eq!(by_name(name).as_deref(), Some(expected));
        }
        for name in ["a.tar", "a.zip", "gz", "zoo.001", "a.jpg", "z01"] {
            assert_eq!(by_name(name), None, "{name}");
        }
        let head = b"\x1F\x8B\x08";
        assert_eq!(by_content(head, "train.tar.gz"), by_name("train.tar.gz"));
        assert!(by_content(head, "download").unwrap().contains("(gzip -dk reads it)"));
        assert_eq!(by_content(b"PK\x03\x04", "a.zip"), None);
    }
}
