//! `scrl-export`: a backbone in the formats of other programs.

use std::collections::BTreeMap;
use std::path::Path;

use super::detectron2::write_detectron2;
use super::folder::weights_file;
use super::options::{ExportFormat, ExportOptions};
use super::pth_writer::write_pth;
use super::read::Weights;
use super::report::Report;
use super::safetensors::write_safetensors;
use super::transformers::{WEIGHTS, write_transformers};
use crate::model::Arch;
use crate::{Error, Result};

/// A summary of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The backbone's architecture.
    pub arch: Arch,
    /// The number of tensors.
    pub tensors: usize,
    /// Where they come from.
    pub report: Report,
}

/// A format of files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Safetensors,
    Pth,
    Detectron2Pickle,
    TransformersFolder,
}

/// Writes the backbone of a network in a file that [`Weights::read`] reads: each file of the export
/// completely or not at all. The same weights give the same bytes.
///
/// # Errors
/// [`Error::Option`] if `out` lacks the format's extension; others if the checkpoint has no such
/// backbone, or if a file cannot be read or written.
pub fn export(options: &ExportOptions) -> Result<Exported> {
    let ExportOptions { out, to, checkpoint, network } = options;
    let kind = file_kind(*to, out)?;
    let is_folder = kind == FileKind::TransformersFolder;
    let checkpoint = &weights_file(checkpoint)?;
    let weights = if is_folder { out.join(WEIGHTS) } else { out.clone() };
    if let (Ok(from), Ok(into)) = (checkpoint.canonicalize(), weights.canonicalize())
        && from == into
    {
        return Err(Error::checkpoint(&weights, "is the checkpoint itself; write elsewhere"));
    }
    if is_folder && out.is_file() {
        return Err(Error::checkpoint(out, "is a file; --to transformers writes a folder"));
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        let reason = format!("there is no folder {}; make it first", folder.display());
        return Err(Error::checkpoint(out, reason));
    }
    let read = Weights::read(checkpoint)?;
    let (arch, tensors) = read.backbone(*network)?;
    let exported = Exported { arch, tensors: tensors.len(), report: read.report(*network)? };
    match kind {
        FileKind::Safetensors => {
            let tensors: BTreeMap<_, _> = tensors.into_iter().collect();
            write_safetensors(out, &tensors, &backbone_metadata(arch))?;
        }
        FileKind::Pth => write_pth(out, &tensors)?,
        FileKind::Detectron2Pickle => write_detectron2(out, &tensors)?,
        FileKind::TransformersFolder => write_transformers(out, arch, tensors)?,
    }
    Ok(exported)
}

/// The metadata of a backbone's safetensors file.
pub(crate) fn backbone_metadata(arch: Arch) -> BTreeMap<&'static str, String> {
    BTreeMap::from([("arch", arch.to_string()), ("format", "pt".to_owned())])
}

fn file_kind(to: ExportFormat, out: &Path) -> Result<FileKind> {
    let extension = out.extension().unwrap_or_default().to_string_lossy();
    let extensions = match (to, &*extension) {
        (ExportFormat::Torchvision, "safetensors") => return Ok(FileKind::Safetensors),
        (ExportFormat::Torchvision, "pth" | "pt") => return Ok(FileKind::Pth),
        (ExportFormat::Detectron2, "pkl") => return Ok(FileKind::Detectron2Pickle),
        (ExportFormat::Transformers, "safetensors" | "pth" | "pt" | "pkl") => {
            let reason = format!("{}: the name of a file; {to} gets a folder", out.display());
            return Err(Error::Option { option: "to", reason });
        }
        (ExportFormat::Transformers, _) => return Ok(FileKind::TransformersFolder),
        (ExportFormat::Torchvision, _) => ".safetensors, .pth or .pt",
        (ExportFormat::Detectron2, _) => ".pkl",
    };
    let reason = format!("{}: the name of a file for {to} ends in {extensions}", out.display());
    Err(Error::Option { option: "to", reason })
}
