//! `scrl-export`: a backbone in the formats of other programs.

use std::collections::BTreeMap;
use std::path::Path;

use scrl_schemas::named_choice;

use super::detectron2::write_detectron2;
use super::pth_writer::write_pth;
use super::{Branch, Weights, write_safetensors};
use crate::model::Arch;
use crate::{Error, Result};

named_choice! {
    /// Whose names and files.
    pub enum ExportFormat {
        /// torchvision's, and timm's: a state dict without `fc`.
        Torchvision = "torchvision",
        /// Detectron2's.
        Detectron2 = "detectron2",
    }
}

/// What was exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The backbone's architecture.
    pub arch: Arch,
    /// How many tensors were written.
    pub tensors: usize,
}

/// The kinds of files.
#[derive(Clone, Copy)]
enum FileKind {
    Safetensors,
    Pth,
    Detectron2Pickle,
}

/// Writes the backbone of a network in `checkpoint`, which may be all that [`Weights::read`] reads, to `out`: whole or not at
/// all, and the same bytes for the same weights.
///
/// # Errors
/// [`Error::Option`] if the ending of `out` is none of the format's; others if there is no such backbone in `checkpoint`
/// or a file cannot be read or written.
pub fn export(checkpoint: &Path, branch: Branch, to: ExportFormat, out: &Path) -> Result<Exported> {
    let kind = file_kind(to, out)?;
    if let (Ok(from), Ok(into)) = (checkpoint.canonicalize(), out.canonicalize())
        && from == into
    {
        return Err(Error::checkpoint(out, "is the checkpoint itself; write to another file"));
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(Error::checkpoint(
            out,
            format!("there is no folder {}; make it first", folder.display()),
        ));
    }
    let (arch, tensors) = Weights::read(checkpoint)?.backbone(branch)?;
    let exported = Exported { arch, tensors: tensors.len() };
    match kind {
        FileKind::Safetensors => {
            let tensors: BTreeMap<_, _> = tensors.into_iter().collect();
            write_safetensors(out, &tensors, &backbone_metadata(arch))?;
        }
        FileKind::Pth => write_pth(out, &tensors)?,
        FileKind::Detectron2Pickle => write_detectron2(out, &tensors)?,
    }
    Ok(exported)
}

/// What stands in the header of a backbone's safetensors file.
pub(crate) fn backbone_metadata(arch: Arch) -> BTreeMap<&'static str, String> {
    BTreeMap::from([("arch", arch.to_string()), ("format", "pt".to_owned())])
}

fn file_kind(to: ExportFormat, out: &Path) -> Result<FileKind> {
    let ending = out.extension().unwrap_or_default().to_string_lossy();
    match (to, &*ending) {
        (ExportFormat::Torchvision, "safetensors") => Ok(FileKind::Safetensors),
        (ExportFormat::Torchvision, "pth" | "pt") => Ok(FileKind::Pth),
        (ExportFormat::Detectron2, "pkl") => Ok(FileKind::Detectron2Pickle),
        _ => {
            let endings = match to {
                ExportFormat::Torchvision => "in .safetensors, .pth or .pt",
                ExportFormat::Detectron2 => "in .pkl",
            };
            let reason =
                format!("the name of a file for {to} ends {endings}, not as {}", out.display());
            Err(Error::Option { option: "to", reason })
        }
    }
}
