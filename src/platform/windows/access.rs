//! Owners and access lists of files, read and set as text (SDDL): `O:` owner, `D:` then one entry in parentheses for each
//! whom something is allowed.

#![expect(unsafe_code, reason = "security descriptors have no safe interface")]

use std::ffi::c_void;
use std::fs::{File, Metadata};
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::{Path, PathBuf};
use std::ptr;

use anyhow::{Context, Result};
use tempfile::TempDir;
use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::{
    ConvertSecurityDescriptorToStringSecurityDescriptorW, ConvertSidToStringSidW,
    ConvertStringSecurityDescriptorToSecurityDescriptorW, GetNamedSecurityInfoW, SDDL_REVISION_1, SE_FILE_OBJECT,
    SetNamedSecurityInfoW,
};
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, GetSecurityDescriptorDacl, GetTokenInformation, OWNER_SECURITY_INFORMATION,
    PROTECTED_DACL_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::Storage::FileSystem::CreateDirectoryW;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use crate::error::{Failed, Failure};
use crate::platform::files::Privacy;

/// Those who may do everything on any Windows anyway: the system and the administrators; and the entries that stand for
/// the owner of what is made inside.
const TRUSTED: [&str; 6] = ["SY", "BA", "CO", "OW", "S-1-3-4", "S-1-5-18"];

/// Text or a descriptor that Windows allocated.
struct Local(*mut c_void);

impl Drop for Local {
    fn drop(&mut self) {
        // SAFETY: it was allocated by a function that says to free it so, and nothing refers to it any more.
        unsafe { LocalFree(self.0) };
    }
}

impl Local {
    /// SAFETY: it must be text that ends with a zero.
    unsafe fn text(&self) -> String {
        let start = self.0.cast::<u16>();
        // SAFETY: the caller's promise.
        unsafe {
            let length = (0..).take_while(|&at| *start.add(at) != 0).count();
            String::from_utf16_lossy(std::slice::from_raw_parts(start, length))
        }
    }
}

/// `text` as Windows takes it.
pub(super) fn wide(text: impl AsRef<std::ffi::OsStr>) -> Vec<u16> {
    text.as_ref().encode_wide().chain([0]).collect()
}

fn succeeded(result: i32) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn code(error: u32) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error.cast_signed())) }
}

/// The security identifier of the user that this process runs as, such as `S-1-5-21-…-1001`.
fn user() -> io::Result<String> {
    // SAFETY: the token is checked and owned by nobody else; the buffer is aligned and as long as is said; what it holds
    // lives as long as the buffer.
    unsafe {
        let mut token = ptr::null_mut();
        succeeded(OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token))?;
        let token = OwnedHandle::from_raw_handle(token);
        // A structure and the identifier behind it, of at most 68 bytes.
        let mut buffer = [0_u64; 32];
        let mut length = 0;
        succeeded(GetTokenInformation(
            token.as_raw_handle(),
            TokenUser,
            buffer.as_mut_ptr().cast(),
            u32::try_from(size_of_val(&buffer)).unwrap_or(0),
            &raw mut length,
        ))?;
        let user = buffer.as_ptr().cast::<TOKEN_USER>();
        let mut text = ptr::null_mut();
        succeeded(ConvertSidToStringSidW((*user).User.Sid, &raw mut text))?;
        Ok(Local(text.cast()).text())
    }
}

fn parse(sddl: &str) -> io::Result<Local> {
    let text = wide(sddl);
    let mut descriptor = ptr::null_mut();
    // SAFETY: the text ends with a zero, and the descriptor belongs to nobody else.
    unsafe {
        succeeded(ConvertStringSecurityDescriptorToSecurityDescriptorW(
            text.as_ptr(),
            SDDL_REVISION_1,
            &raw mut descriptor,
            ptr::null_mut(),
        ))?;
    }
    Ok(Local(descriptor))
}

fn print(descriptor: PSECURITY_DESCRIPTOR) -> io::Result<String> {
    let mut text = ptr::null_mut();
    // SAFETY: the caller has a valid descriptor, and the text belongs to nobody else.
    unsafe {
        succeeded(ConvertSecurityDescriptorToStringSecurityDescriptorW(
            descriptor,
            SDDL_REVISION_1,
            OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION,
            &raw mut text,
            ptr::null_mut(),
        ))?;
        Ok(Local(text.cast()).text())
    }
}

/// Owner and access list of `path` as SDDL.
fn describe(path: &Path) -> io::Result<String> {
    let path = wide(path);
    let mut descriptor = ptr::null_mut();
    // SAFETY: the path ends with a zero; what is not asked for may be null; the descriptor belongs to nobody else.
    unsafe {
        code(GetNamedSecurityInfoW(
            path.as_ptr(),
            SE_FILE_OBJECT,
            OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            &raw mut descriptor,
        ))?;
    }
    print(Local(descriptor).0)
}

/// The user as SDDL spells it, which has short names for well-known ones.
fn user_in_sddl() -> io::Result<String> {
    let sddl = print(parse(&format!("O:{}", user()?))?.0)?;
    Ok(owner_in(&sddl).to_owned())
}

fn owner_in(sddl: &str) -> &str {
    let rest = sddl.strip_prefix("O:").unwrap_or_default();
    // Neither `G:` nor `D:` can be part of an identifier.
    rest.split_once("G:").or_else(|| rest.split_once("D:")).map_or(rest, |(owner, _)| owner)
}

/// The owner of `path`, unless that is the user, the administrators or the system.
fn foreign_owner(path: &Path) -> io::Result<Option<String>> {
    let sddl = describe(path)?;
    let owner = owner_in(&sddl);
    let is_own = TRUSTED.contains(&owner) || owner == user_in_sddl()?;
    Ok((!is_own).then(|| owner.to_owned()))
}

/// Who else may use `path`, as its access list names them; `everyone` where it has none.
fn others(path: &Path) -> io::Result<Vec<String>> {
    let sddl = describe(path)?;
    let Some((_, list)) = sddl.split_once("D:") else { return Ok(vec!["everyone".to_owned()]) };
    if list.contains("NO_ACCESS_CONTROL") {
        return Ok(vec!["everyone".to_owned()]);
    }
    let user = user_in_sddl()?;
    let mut others = Vec::new();
    for entry in list.split('(').skip(1) {
        let fields: Vec<&str> = entry.split(')').next().unwrap_or_default().split(';').collect();
        let [kind, _flags, _rights, _, _, who, ..] = fields[..] else { continue };
        let is_other = !TRUSTED.contains(&who) && who != user && !others.iter().any(|known| known == who);
        if kind.ends_with('A') && is_other {
            others.push(who.to_owned());
        }
    }
    Ok(others.into_iter().map(|who| spelled(&who)).collect())
}

/// The groups that are met most often by their English names.
fn spelled(who: &str) -> String {
    match who {
        "WD" => "everyone".to_owned(),
        "BU" => "all users".to_owned(),
        "AU" => "authenticated users".to_owned(),
        _ => who.to_owned(),
    }
}

/// Everything for the user and the system, for what is inside as well, and nothing handed down from above.
fn private() -> io::Result<Local> {
    let user = user()?;
    parse(&format!("D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;{user})"))
}

/// Makes a directory for the user alone.
fn create_private_directory(path: &Path) -> io::Result<()> {
    let descriptor = private()?;
    let attributes = SECURITY_ATTRIBUTES {
        nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or(0),
        lpSecurityDescriptor: descriptor.0,
        bInheritHandle: 0,
    };
    let path = wide(path);
    // SAFETY: the path ends with a zero, and the descriptor outlives the call.
    succeeded(unsafe { CreateDirectoryW(path.as_ptr(), &raw const attributes) })
}

/// Gives a file or directory that exists to the user alone.
fn make_private(path: &Path) -> io::Result<()> {
    let descriptor = private()?;
    let path = wide(path);
    let (mut present, mut list, mut defaulted) = (0, ptr::null_mut(), 0);
    // SAFETY: the descriptor outlives the list, which is part of it; what is not set may be null.
    unsafe {
        succeeded(GetSecurityDescriptorDacl(descriptor.0, &raw mut present, &raw mut list, &raw mut defaulted))?;
        code(SetNamedSecurityInfoW(
            path.as_ptr(),
            SE_FILE_OBJECT,
            DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION,
            ptr::null_mut(),
            ptr::null_mut(),
            list,
            ptr::null(),
        ))
    }
}

/// The user's own files, and those of the administrators and the system, who may write anywhere.
pub(crate) fn check_owner(path: &Path, _metadata: &Metadata) -> Result<()> {
    let owner = match foreign_owner(path) {
        Ok(None) => return Ok(()),
        Ok(Some(owner)) => owner,
        // A file system without owners, such as FAT.
        Err(error) => {
            log::warn!("cannot determine the owner of `{}`: {error}", path.display());
            return Ok(());
        }
    };
    Failed::new(Failure::Other, format!("`{}` belongs to another user ({owner}) and is not used", path.display()))
        .hint("check who should own it; if it is yours, copy it and use the copy")
        .err()
}

/// No user works in another's home here: an administrator's own files belong to the administrators.
pub(crate) fn work_for(_homes: &[&Path], _reported: PathBuf) {}

/// No user here runs programs for another.
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Unix, where it can fail")]
pub(crate) fn check_commands_in(_file: &Path) -> Result<()> {
    Ok(())
}

/// Nor does a user change files for another.
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Unix, where it can fail")]
pub(crate) fn check_changed_for(_file: &Path, _named: &Path) -> Result<()> {
    Ok(())
}

pub(crate) fn is_in_anothers_home() -> bool {
    false
}

/// Fails unless what a file says is to be believed; see [`check_owner`].
pub(crate) fn check_file(path: &Path, metadata: &Metadata, _privacy: Privacy) -> Result<()> {
    check_owner(path, metadata)
}

/// The same for a named pipe or a device.
pub(crate) fn check_pipe(path: &Path, metadata: &Metadata, _privacy: Privacy) -> Result<()> {
    check_owner(path, metadata)
}

/// The access list of a directory is looked at by `doctor`.
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Unix, where it can fail")]
pub(crate) fn check_directory(_directory: &Path, _metadata: &Metadata, _wanted: &Path) -> Result<()> {
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Unix, where it can fail")]
pub(crate) fn check_unwritable(_directory: &Path, _metadata: &Metadata, _wanted: &Path) -> Result<()> {
    Ok(())
}

/// Making a symlink takes the right of an administrator or a developer.
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Unix, where it can fail")]
pub(crate) fn check_link(_path: &Path, _metadata: &Metadata, _target: &Path) -> Result<()> {
    Ok(())
}

/// The directory's access list protects the file; `doctor` checks it.
pub(crate) fn tighten(_path: &Path, _file: &File, _metadata: &Metadata, _privacy: Privacy, _is_ours: bool) {}

/// A new file has the access list of its directory.
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Unix, where it can fail")]
pub(crate) fn restrict(_file: &File) -> io::Result<()> {
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Unix, where it can fail")]
pub(crate) fn keep_mode(_file: &File, _path: &Path, _old: &Metadata) -> io::Result<()> {
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Unix, where it can fail")]
pub(crate) fn keep_owner(_file: &File, _path: &Path, _old: &Metadata) -> Result<()> {
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Unix, where it can fail")]
pub(crate) fn inherit_owner(_file: &File, _path: &Path) -> Result<()> {
    Ok(())
}

/// Makes a directory for the user and the system alone.
pub(crate) fn create_directory(path: &Path) -> Result<()> {
    create_private_directory(path).with_context(|| format!("cannot create the directory `{}`", path.display()))
}

/// A new private temporary directory, removed when dropped.
pub(crate) fn private_temporary_directory(prefix: &str) -> io::Result<TempDir> {
    let directory = tempfile::Builder::new().prefix(prefix).tempdir()?;
    make_private(directory.path())?;
    Ok(directory)
}

/// Who else could read a file, for `doctor`; `None` if no one.
pub(crate) fn readable_by_others(path: &Path) -> Option<String> {
    named(others(path)).filter(|_| path.is_file())
}

/// Other names of the same file.
pub(crate) fn has_hard_links(path: &Path) -> bool {
    super::disk::links(path).is_ok_and(|links| links > 1)
}

/// Who else could create files in a directory; `None` if no one.
pub(crate) fn writable_by_others(directory: &Path) -> Option<String> {
    named(others(directory))
}

fn named(others: io::Result<Vec<String>>) -> Option<String> {
    let others = others.ok()?;
    (!others.is_empty()).then(|| format!("access list: {}", others.join(", ")))
}

/// What an access list allows is judged as a whole: see [`writable_by_others`].
pub(crate) fn open_to_others(_directory: &Path) -> Option<String> {
    None
}

/// Takes a directory away from others.
pub(crate) fn restrict_directory(directory: &Path) -> io::Result<()> {
    make_private(directory)
}

/// What to type to take a directory away from others.
pub(crate) fn how_to_restrict(directory: &Path) -> String {
    format!(
        "`icacls \"{}\" /inheritance:r /grant:r \"%USERNAME%:(OI)(CI)F\"`, or `qwenauth doctor --fix`",
        directory.display()
    )
}

/// What becomes of a file that others could read.
pub(crate) fn how_tightened(_: &Path) -> String {
    "run `qwenauth doctor --fix` to remove the access of other users to its directory".to_owned()
}
