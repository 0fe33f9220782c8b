//! The layer itself: SQLite's table of functions, each of which records and hands on to the layer below.
//!
//! Invariants: a watched file is one allocation of SQLite's: our header, then the lower layer's file; the header is valid
//! from a successful open to close; nothing is recorded that the lower layer has refused.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rusqlite::ffi;

use crate::{Entry, Recorder, Trouble};

/// The layer could not be put under SQLite.
#[derive(Debug, thiserror::Error)]
#[error("SQLite did not take the layer (code {0})")]
pub struct NotInstalled(c_int);

/// What stands before the lower layer's file.
#[repr(C)]
struct Watched {
    base: ffi::sqlite3_file,
    file: *mut Known,
}

struct Known {
    recorder: Arc<Recorder>,
    name: String,
}

/// SQLite places files at multiples of 8 bytes.
const HEADER: usize = size_of::<Watched>();
const _: () = assert!(HEADER.is_multiple_of(8) && align_of::<Watched>() <= 8);

/// The lower layer, as an address: written once, before anybody uses it.
static LOWER: OnceLock<usize> = OnceLock::new();

fn lower() -> *mut ffi::sqlite3_vfs {
    LOWER
        .get()
        .map_or(std::ptr::null_mut(), |at| *at as *mut ffi::sqlite3_vfs)
}

/// Puts the layer under everything that SQLite opens in this process from now on. Harmless to repeat.
///
/// # Errors
/// When SQLite refuses it.
pub fn install() -> Result<(), NotInstalled> {
    static DONE: OnceLock<c_int> = OnceLock::new();
    // SAFETY: plain calls of SQLite's C interface; the table that is registered is leaked and lives for ever, and is a copy
    // of the lower one with two functions and the size replaced.
    let code = *DONE.get_or_init(|| unsafe {
        let code = ffi::sqlite3_initialize();
        if code != ffi::SQLITE_OK {
            return code;
        }
        let real = ffi::sqlite3_vfs_find(std::ptr::null());
        if real.is_null() {
            return ffi::SQLITE_NOTFOUND;
        }
        LOWER.get_or_init(|| real as usize);
        let mut ours = *real;
        ours.szOsFile += HEADER as c_int;
        ours.pNext = std::ptr::null_mut();
        ours.zName = c"power-loss".as_ptr();
        ours.xOpen = Some(open);
        ours.xDelete = Some(delete);
        ffi::sqlite3_vfs_register(Box::into_raw(Box::new(ours)), 1)
    });
    if code == ffi::SQLITE_OK {
        Ok(())
    } else {
        Err(NotInstalled(code))
    }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // The second version: shared memory, but no memory-mapped reads and writes, which would pass us by.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(take_lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// The recorder of a path that SQLite has resolved.
///
/// # Safety
/// `name` is null or a C string.
unsafe fn known(name: *const c_char) -> Option<Known> {
    if name.is_null() {
        return None;
    }
    // SAFETY: as promised by the caller.
    let name = unsafe { CStr::from_ptr(name) };
    let (recorder, name) = Recorder::of(Path::new(name.to_str().ok()?))?;
    Some(Known { recorder, name })
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let real = lower();
    // SAFETY: SQLite hands us the arguments of its own interface: a name that is null or a C string, and room for
    // `szOsFile` bytes at `file`, which are our header and the lower layer's file.
    unsafe {
        let Some(open) = (*real).xOpen else {
            return ffi::SQLITE_CANTOPEN;
        };
        let Some(known) = known(name) else {
            return open(real, name, file, flags, out);
        };
        (*file).pMethods = std::ptr::null();
        let is_main = flags & ffi::SQLITE_OPEN_MAIN_DB != 0;
        let mut flags = flags;
        match known.recorder.trouble() {
            Trouble::ReadOnlyFolder if !is_main => return ffi::SQLITE_READONLY_DIRECTORY,
            Trouble::ReadOnlyFile if is_main => {
                flags = flags & !(ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE) | ffi::SQLITE_OPEN_READONLY;
            }
            _ => {}
        }
        let inner = inner(file);
        let code = open(real, name, inner, flags, out);
        if code != ffi::SQLITE_OK {
            if let Some(close) = (*inner).pMethods.as_ref().and_then(|m| m.xClose) {
                close(inner);
            }
            return code;
        }
        known.recorder.found(&known.name);
        let watched = file.cast::<Watched>();
        (*watched).file = Box::into_raw(Box::new(known));
        (*watched).base.pMethods = &raw const METHODS;
        code
    }
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    let real = lower();
    // SAFETY: as in `open`.
    unsafe {
        let Some(delete) = (*real).xDelete else {
            return ffi::SQLITE_IOERR_DELETE;
        };
        let code = delete(real, name, sync_dir);
        if code == ffi::SQLITE_OK
            && let Some(known) = known(name)
        {
            known.recorder.record(Entry::Delete { file: known.name });
        }
        code
    }
}

/// The lower layer's file.
///
/// # Safety
/// `file` is one that SQLite has allocated for this layer.
unsafe fn inner(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: behind the header there is room for the lower layer's file.
    unsafe { file.cast::<u8>().add(HEADER).cast() }
}

/// What is known of an open file.
///
/// # Safety
/// `file` was opened by [`open`] and not closed.
unsafe fn of<'a>(file: *mut ffi::sqlite3_file) -> &'a Known {
    // SAFETY: set by `open`, freed by `close`.
    unsafe { &*(*file.cast::<Watched>()).file }
}

/// Hands a call on to the lower layer.
macro_rules! below {
    ($file:ident, $method:ident, $missing:expr $(, $argument:expr)*) => {{
        // SAFETY: SQLite calls these functions only between `open` and `close` of the file, with the arguments that the lower
        // layer's function of the same name takes.
        unsafe {
            let real = inner($file);
            match (*(*real).pMethods).$method {
                Some(method) => method(real $(, $argument)*),
                None => $missing,
            }
        }
    }};
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let code = below!(file, xClose, ffi::SQLITE_OK);
    // SAFETY: allocated by `open`; SQLite closes a file once.
    drop(unsafe { Box::from_raw((*file.cast::<Watched>()).file) });
    code
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, amount: c_int, at: i64) -> c_int {
    below!(file, xRead, ffi::SQLITE_IOERR_READ, to, amount, at)
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, amount: c_int, at: i64) -> c_int {
    // SAFETY: see `below`; `from` holds `amount` bytes.
    let (known, data) = unsafe {
        (
            of(file),
            std::slice::from_raw_parts(from.cast::<u8>(), usize::try_from(amount).unwrap_or(0)),
        )
    };
    if known.recorder.trouble() == Trouble::DiskFull {
        return ffi::SQLITE_FULL;
    }
    let code = below!(file, xWrite, ffi::SQLITE_IOERR_WRITE, from, amount, at);
    if code == ffi::SQLITE_OK {
        known.recorder.record(Entry::Write {
            file: known.name.clone(),
            at: at.unsigned_abs(),
            data: data.to_vec(),
        });
    }
    code
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    let code = below!(file, xTruncate, ffi::SQLITE_IOERR_TRUNCATE, size);
    if code == ffi::SQLITE_OK {
        // SAFETY: see `below`.
        let known = unsafe { of(file) };
        known.recorder.record(Entry::Truncate {
            file: known.name.clone(),
            len: size.unsigned_abs(),
        });
    }
    code
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: see `below`.
    let known = unsafe { of(file) };
    if known.recorder.trouble() == Trouble::SyncFails {
        return ffi::SQLITE_IOERR_FSYNC;
    }
    let code = below!(file, xSync, ffi::SQLITE_IOERR_FSYNC, flags);
    if code == ffi::SQLITE_OK {
        known.recorder.record(Entry::Sync {
            file: known.name.clone(),
        });
    }
    code
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    below!(file, xFileSize, ffi::SQLITE_IOERR_FSTAT, size)
}

unsafe extern "C" fn take_lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    below!(file, xLock, ffi::SQLITE_IOERR_LOCK, level)
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    below!(file, xUnlock, ffi::SQLITE_IOERR_UNLOCK, level)
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    below!(file, xCheckReservedLock, ffi::SQLITE_IOERR_CHECKRESERVEDLOCK, out)
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    below!(file, xFileControl, ffi::SQLITE_NOTFOUND, op, argument)
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    below!(file, xSectorSize, 4096)
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    below!(file, xDeviceCharacteristics, 0)
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    page: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    below!(file, xShmMap, ffi::SQLITE_IOERR_SHMMAP, page, size, extend, out)
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    below!(file, xShmLock, ffi::SQLITE_IOERR_SHMLOCK, offset, count, flags)
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    below!(file, xShmBarrier, ());
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    below!(file, xShmUnmap, ffi::SQLITE_OK, delete)
}
