// Package blocktest is a disk in memory whose power can be cut at any step: what was
// written since the last Sync is then there, or torn, or not, sector by sector.
package blocktest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
)

// ErrPower is what a disk without power answers.
var ErrPower = errors.New("the power is cut")

const page = 4096

var zeros [page]byte

// Disk is a disk in memory; what was never written is zero.
type Disk struct {
	mu      sync.Mutex
	size    int64
	sector  int
	durable map[int64]*[page]byte
	view    map[int64]*[page]byte // what reads see: durable, with pending over it
	pending []write
	left    int // steps until the cut; negative: none
	dead    bool
	rand    *rand.Rand
	steps   int
	onWrite func(off int64, b []byte)
}

type write struct {
	off int64
	b   []byte
}

// New is a disk of size bytes with sectors of the given size.
func New(size int64, sector int) *Disk {
	return &Disk{size: size, sector: sector, durable: map[int64]*[page]byte{}, view: map[int64]*[page]byte{}, left: -1, rand: rand.New(rand.NewPCG(1, 1))}
}

// CutAfter lets n more writes and syncs pass, and cuts the power in the one after them;
// seed chooses what of the unsynced is lost. Negative: no cut.
func (d *Disk) CutAfter(n int, seed uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left, d.rand = n, rand.New(rand.NewPCG(seed, 7))
}

// Cut reports whether the power is cut.
func (d *Disk) Cut() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

// Steps is how many writes and syncs there were.
func (d *Disk) Steps() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.steps
}

// Restart gives the power back, and cuts it no more. A disk that was running loses what
// was not synced, as chance has it.
func (d *Disk) Restart() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dead {
		d.crash()
	}
	d.dead, d.left = false, -1
}

// Clone is another disk that holds what is durable here.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := New(d.size, d.sector)
	for n, p := range d.durable {
		q := *p
		c.durable[n] = &q
	}
	c.see()
	return c
}

// Resize makes the disk larger, as a hypervisor does while the machine is off.
func (d *Disk) Resize(size int64) { d.size = size }

// OnWrite is called for each write, before it happens.
func (d *Disk) OnWrite(f func(off int64, b []byte)) { d.onWrite = f }

// Size is the disk's, in bytes.
func (d *Disk) Size() int64 { return d.size }

// SectorSize is the disk's, in bytes.
func (d *Disk) SectorSize() int { return d.sector }

// ReadAt reads what was written last.
func (d *Disk) ReadAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return 0, ErrPower
	}
	if off < 0 || off >= d.size {
		return 0, io.EOF
	}
	n := min(int64(len(b)), d.size-off)
	for done := int64(0); done < n; {
		at := off + done
		part := min(page-at%page, n-done)
		if p := d.view[at/page]; p != nil {
			copy(b[done:done+part], p[at%page:])
		} else {
			clear(b[done : done+part])
		}
		done += part
	}
	if n < int64(len(b)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// WriteAt writes, or cuts the power.
func (d *Disk) WriteAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return 0, ErrPower
	}
	if off < 0 || off+int64(len(b)) > d.size {
		return 0, io.ErrShortWrite
	}
	if d.onWrite != nil {
		d.onWrite(off, b)
	}
	d.pending = append(d.pending, write{off, clone(b)})
	if d.step() {
		return 0, ErrPower
	}
	put(d.view, off, b)
	return len(b), nil
}

// Sync makes durable what was written, or cuts the power.
func (d *Disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead || d.step() {
		return ErrPower
	}
	for _, w := range d.pending {
		put(d.durable, w.off, w.b)
	}
	d.pending = nil
	return nil
}

// step counts one; it reports whether the power is cut in it.
func (d *Disk) step() bool {
	d.steps++
	if d.left < 0 {
		return false
	}
	if d.left > 0 {
		d.left--
		return false
	}
	d.crash()
	d.dead = true
	return true
}

// crash leaves of what was not synced what chance has it: all, none, or some sectors, and
// sometimes of one sector a half.
func (d *Disk) crash() {
	mood, half := d.rand.IntN(3), d.rand.IntN(80)
	for _, w := range d.pending {
		for at := 0; at < len(w.b); at += d.sector {
			part := w.b[at:min(at+d.sector, len(w.b))]
			keep := mood == 0 || mood == 1 && d.rand.IntN(2) == 0
			if half--; half == 0 {
				part, keep = part[:len(part)/2], true
			}
			if keep {
				put(d.durable, w.off+int64(at), part)
			}
		}
	}
	d.pending = nil
	d.see()
}

// see makes the view what is durable.
func (d *Disk) see() {
	d.view = make(map[int64]*[page]byte, len(d.durable))
	for n, p := range d.durable {
		q := *p
		d.view[n] = &q
	}
}

// none is a run of zeros that nobody writes to.
var none = make([]byte, 4<<20)

// clone is a copy of b, or, of zeros, none.
func clone(b []byte) []byte {
	if len(b) <= len(none) && bytes.Equal(b, none[:len(b)]) {
		return none[:len(b)]
	}
	return bytes.Clone(b)
}

func put(pages map[int64]*[page]byte, off int64, b []byte) {
	for len(b) > 0 {
		n := off / page
		part := min(page-off%page, int64(len(b)))
		p := pages[n]
		if p == nil && bytes.Equal(b[:part], zeros[:part]) {
			b, off = b[part:], off+part
			continue // it is zero as it is
		}
		if p == nil {
			p = new([page]byte)
			pages[n] = p
		}
		copy(p[off%page:], b[:part])
		b, off = b[part:], off+part
	}
}
