//! The allocator of the static build.
//!
//! Hazard: the C library that zig links keeps what a thread frees for that thread. The ledger and renewals of a gateway have
//! threads of their own, so it grew by megabytes a day. Rule: small pieces come from one heap for all threads, which also
//! needs fewer system calls at the start; large ones are mapped by the C library and go back to the system at once.
//!
//! The heap has a lock, which a request of the gateway would take fifty times. Its event loop therefore keeps a few of the
//! pieces that it frees for itself: see [`keep_freed`].
#![expect(unsafe_code, reason = "the interface of an allocator is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

use dlmalloc::GlobalDlmalloc;

/// Bytes from which the C library maps each piece by itself.
const LARGE: usize = 32 * 1024 + 1;

/// Bytes up to which a piece is kept: a connection's buffer is of 8 KiB. All that are kept together take no more than [`ROOM`].
const SMALL: usize = 9 * 1024;
const ROOM: usize = 512 * 1024;

/// The heap gives out multiples of [`STEP`], of which [`HEADER`] bytes are its own.
const STEP: usize = 16;
const HEADER: usize = 8;

/// Freed pieces, by their size in steps; each of them holds the place of the next.
struct Kept {
    first: [Cell<*mut u8>; (SMALL + HEADER).div_ceil(STEP) + 1],
    room: Cell<usize>,
}

#[expect(clippy::cast_ptr_alignment, reason = "the heap aligns every piece to a step")]
impl Kept {
    fn take(&self, steps: usize) -> Option<*mut u8> {
        let first = &self.first[steps];
        let piece = first.get();
        if piece.is_null() {
            return None;
        }
        // SAFETY: `keep` has written the place of the next piece there.
        first.set(unsafe { piece.cast::<*mut u8>().read() });
        self.room.set(self.room.get() + steps * STEP);
        Some(piece)
    }

    /// Whether there was room for it.
    fn keep(&self, piece: *mut u8, steps: usize) -> bool {
        let Some(room) = self.room.get().checked_sub(steps * STEP) else { return false };
        self.room.set(room);
        // SAFETY: the piece is free, and the heap aligns it and makes it long enough for an address.
        unsafe { piece.cast::<*mut u8>().write(self.first[steps].replace(piece)) };
        true
    }
}

thread_local! {
    /// `None` on a thread that keeps nothing.
    static KEPT: Cell<Option<&'static Kept>> = const { Cell::new(None) };
}

/// Keeps small pieces that this thread frees for its next ones, without the lock. For a thread that lives as long as the
/// program: at its end they would be lost.
pub(super) fn keep_freed() {
    let kept = Kept { first: [const { Cell::new(ptr::null_mut()) }; _], room: Cell::new(ROOM) };
    KEPT.set(Some(Box::leak(Box::new(kept))));
}

/// The size of small pieces in steps, if one of this layout can be kept.
fn steps(layout: Layout) -> Option<usize> {
    (layout.size() <= SMALL && layout.align() <= STEP).then(|| (layout.size() + HEADER).div_ceil(STEP))
}

/// The layout by which the heap is asked: pieces of as many steps are as long, so that one can take the place of another.
fn whole_steps(layout: Layout) -> Layout {
    let Some(steps) = steps(layout) else { return layout };
    // SAFETY: the alignment is valid and the size small.
    unsafe { Layout::from_size_align_unchecked(steps * STEP - HEADER, layout.align()) }
}

fn taken(layout: Layout) -> Option<*mut u8> {
    KEPT.get()?.take(steps(layout)?)
}

fn is_kept(piece: *mut u8, layout: Layout) -> bool {
    KEPT.get().zip(steps(layout)).is_some_and(|(kept, steps)| kept.keep(piece, steps))
}

struct Allocator;

#[cfg_attr(target_env = "musl", global_allocator)]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: a piece goes back to where it came from, because its layout says which that was.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller's.
        unsafe {
            if layout.size() >= LARGE {
                return System.alloc(layout);
            }
            taken(layout).unwrap_or_else(|| GlobalDlmalloc.alloc(whole_steps(layout)))
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller's.
        unsafe {
            if layout.size() >= LARGE {
                return System.alloc_zeroed(layout);
            }
            GlobalDlmalloc.alloc_zeroed(whole_steps(layout))
        }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe {
            if layout.size() >= LARGE {
                System.dealloc(piece, layout);
            } else if !is_kept(piece, layout) {
                GlobalDlmalloc.dealloc(piece, whole_steps(layout));
            }
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as the caller's; a piece that moves is copied as far as both have room.
        unsafe {
            match (layout.size() < LARGE, new_size < LARGE) {
                (true, true) => {
                    let new = whole_steps(Layout::from_size_align_unchecked(new_size, layout.align()));
                    GlobalDlmalloc.realloc(piece, whole_steps(layout), new.size())
                }
                (false, false) => System.realloc(piece, layout, new_size),
                _ => {
                    let moved = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
                    if !moved.is_null() {
                        moved.copy_from_nonoverlapping(piece, layout.size().min(new_size));
                        self.dealloc(piece, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A piece of one test, filled with one byte.
    struct Piece {
        at: *mut u8,
        layout: Layout,
        filling: u8,
    }

    impl Piece {
        fn new((size, alignment): (usize, usize), is_zeroed: bool) -> Self {
            let layout = Layout::from_size_align(size, alignment).unwrap();
            // SAFETY: no size is zero.
            let at = unsafe { if is_zeroed { ALLOCATOR.alloc_zeroed(layout) } else { ALLOCATOR.alloc(layout) } };
            let piece = Self { at, layout, filling: 0 };
            piece.check_place();
            assert!(!is_zeroed || piece.bytes().iter().all(|byte| *byte == 0), "{layout:?} is not zeroed");
            piece
        }

        fn check_place(&self) {
            assert!(!self.at.is_null() && self.at.addr().is_multiple_of(self.layout.align()), "{:?}", self.layout);
        }

        fn bytes(&self) -> &[u8] {
            // SAFETY: the piece is as long, and only this test writes to it.
            unsafe { std::slice::from_raw_parts(self.at, self.layout.size()) }
        }

        fn fill(&mut self, filling: u8) {
            self.filling = filling;
            // SAFETY: the piece is as long.
            unsafe { self.at.write_bytes(filling, self.layout.size()) };
        }

        fn resize(&mut self, size: usize) {
            let kept = self.layout.size().min(size);
            // SAFETY: the piece is of this allocator and layout.
            self.at = unsafe { ALLOCATOR.realloc(self.at, self.layout, size) };
            self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
            self.check_place();
            let is_kept = self.bytes()[..kept].iter().all(|byte| *byte == self.filling);
            assert!(is_kept, "{:?} lost bytes", self.layout);
            self.fill(self.filling);
        }

        fn free(self) {
            let is_whole = self.bytes().iter().all(|byte| *byte == self.filling);
            assert!(is_whole, "{:?} was written to by another", self.layout);
            // SAFETY: the piece is of this allocator and layout.
            unsafe { ALLOCATOR.dealloc(self.at, self.layout) };
        }
    }

    /// Sizes of all magnitudes, those around the border, and small ones, of which many are nearly as long.
    fn size() -> impl Strategy<Value = usize> {
        let magnitudes = (0_u32..18).prop_flat_map(|bits| 1_usize << bits..2 << bits);
        prop_oneof![magnitudes, LARGE - 9..LARGE + 9, 1_usize..100]
    }

    fn size_and_alignment() -> impl Strategy<Value = (usize, usize)> {
        (size(), (0_u32..13).prop_map(|bits| 1_usize << bits))
    }

    proptest! {
        #[test]
        fn pieces_keep_their_bytes_across_the_border_and_do_not_overlap(
            is_keeping in any::<bool>(),
            made in prop::collection::vec((size_and_alignment(), any::<bool>()), 1..20),
            resized in prop::collection::vec((any::<prop::sample::Index>(), size()), 0..40),
        ) {
            if is_keeping { keep_freed() } else { KEPT.set(None) }
            // The second time with pieces that were kept.
            for _ in 0..2 {
                let mut pieces: Vec<Piece> = Vec::new();
                for (filling, &(layout, is_zeroed)) in (1..).zip(&made) {
                    let mut piece = Piece::new(layout, is_zeroed);
                    piece.fill(filling);
                    pieces.push(piece);
                }
                for &(which, size) in &resized {
                    which.get_mut(&mut pieces).resize(size);
                }
                pieces.into_iter().for_each(Piece::free);
            }
        }
    }

    fn addresses(size: usize, count: usize) -> Vec<usize> {
        let mut pieces: Vec<Piece> = (0..count).map(|_| Piece::new((size, 8), false)).collect();
        for piece in &mut pieces {
            piece.fill(1);
        }
        let addresses = pieces.iter().map(|piece| piece.at.addr()).collect();
        pieces.into_iter().for_each(Piece::free);
        addresses
    }

    #[test]
    fn a_freed_piece_is_the_next_of_its_length() {
        keep_freed();
        for (first, next) in [(1, 8), (24, 9), (100, 97), (1000, 1000), (SMALL, SMALL - 3)] {
            assert_eq!(addresses(first, 1), addresses(next, 1), "{first} {next}");
        }
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        keep_freed();
        let length = 8 * 1024 + STEP;
        addresses(8 * 1024, 2 * ROOM / length);
        let kept = KEPT.get().unwrap();
        assert_eq!(kept.room.get(), ROOM % length);
        let count = std::iter::from_fn(|| kept.take(length / STEP)).count();
        assert_eq!((count, kept.room.get()), (ROOM / length, ROOM));
    }
}
