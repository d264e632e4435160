package update

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
)

// chunk is what a disk writes at once.
const chunk = 512

// powerCut is what the model panics with: nothing runs after it.
type powerCut struct{}

// extent is what a file consists of; two names may have the same one after a cut.
type extent struct {
	live, disk []byte
	freed      int // at which step; 0: never
}

// change is one to the directory that is not on the disk: a name that came, or went.
type change struct {
	name string
	was  *extent // nil: it comes
	is   *extent
}

// model is a file system without a journal, such as FAT: what was not synced is on the disk
// or not, piece by piece and in any order; a rename adds a name and then takes one, so that
// a cut may leave both, or neither; what a removed file consisted of is written over by the
// next, whatever names there still are.
type model struct {
	r        *rand.Rand
	dir      map[string]*extent // as programs see it
	disk     map[string]*extent // as after a cut
	pending  []change
	written  []*extent
	room     int64
	cut      int // at this step the power goes; below 0: never
	step     int
	freed    []*extent
	newest   *extent
	newestAt int
}

var _ ESP = (*model)(nil)

func newModel(seed uint64, room int64, files map[string][]byte) *model {
	m := &model{r: rand.New(rand.NewPCG(seed, 7)), dir: map[string]*extent{}, disk: map[string]*extent{}, room: room, cut: -1}
	for name, b := range files {
		x := &extent{live: bytes.Clone(b), disk: bytes.Clone(b)}
		m.dir[name], m.disk[name] = x, x
	}
	return m
}

// tick is one thing done; the power may go before it and after it.
func (m *model) tick(do func()) {
	if m.step == m.cut {
		panic(powerCut{})
	}
	m.step++
	do()
	if m.step == m.cut {
		panic(powerCut{})
	}
	m.step++
}

func (m *model) List() (map[string]int64, error) {
	out := map[string]int64{}
	for name, x := range m.dir {
		out[name] = int64(len(x.live))
	}
	return out, nil
}

func (m *model) Free() (int64, error) {
	free, seen := m.room, map[*extent]bool{}
	for _, x := range m.dir {
		if !seen[x] {
			free -= int64(len(x.live))
		}
		seen[x] = true
	}
	return free, nil
}

type modelFile struct {
	m *model
	x *extent
}

func (m *model) Create(name string) (File, error) {
	x := &extent{}
	m.tick(func() {
		m.pending = append(m.pending, change{name, m.dir[name], x})
		m.dir[name] = x
	})
	return modelFile{m, x}, nil
}

func (f modelFile) Write(b []byte) (int, error) {
	for part := range slices.Chunk(b, 64*chunk) {
		f.m.tick(func() {
			f.x.live = append(f.x.live, part...)
			if !slices.Contains(f.m.written, f.x) {
				f.m.written = append(f.m.written, f.x)
			}
			f.m.newest, f.m.newestAt = f.x, f.m.step
			for _, old := range f.m.freed { // it lies where they lay
				f.m.tear(old.live, part)
				f.m.tear(old.disk, part)
			}
		})
	}
	return len(b), nil
}

// tear writes some pieces of over into b.
func (m *model) tear(b, over []byte) {
	for at := 0; at < len(b); at += chunk {
		if m.r.IntN(2) == 0 {
			copy(b[at:min(at+chunk, len(b))], over)
		}
	}
}

func (f modelFile) Sync() error {
	f.m.tick(func() { f.x.disk = bytes.Clone(f.x.live) })
	return nil
}

func (f modelFile) Close() error { return nil }

// storedFile is a file that is read.
type storedFile struct{ *bytes.Reader }

func (storedFile) Close() error { return nil }

func (m *model) Open(name string) (Stored, error) {
	x, ok := m.dir[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return storedFile{bytes.NewReader(x.live)}, nil
}

func (m *model) Rename(old, new string) error {
	x, ok := m.dir[old]
	if !ok {
		return fs.ErrNotExist
	}
	m.tick(func() {
		if there := m.dir[new]; there != nil {
			m.free(there)
		}
		m.pending = append(m.pending, change{new, nil, x})
		m.dir[new] = x
	})
	m.tick(func() {
		m.pending = append(m.pending, change{old, x, nil})
		delete(m.dir, old)
	})
	return nil
}

func (m *model) Remove(name string) error {
	x, ok := m.dir[name]
	if !ok {
		return fs.ErrNotExist
	}
	m.tick(func() {
		m.pending = append(m.pending, change{name, x, nil})
		delete(m.dir, name)
		m.free(x)
	})
	return nil
}

func (m *model) free(x *extent) {
	if x.freed > 0 && m.newestAt > x.freed { // what is freed twice is somebody else's by now
		m.tear(m.newest.live, make([]byte, chunk))
		m.tear(m.newest.disk, make([]byte, chunk))
	}
	x.freed = m.step + 1
	m.freed = append(m.freed, x)
}

// Sync has everything on the disk; what was freed stays free, for names that share it.
func (m *model) Sync() error {
	m.tick(func() {
		for _, x := range m.written {
			x.disk = bytes.Clone(x.live)
		}
		m.written, m.pending, m.disk = nil, nil, map[string]*extent{}
		for name, x := range m.dir {
			m.disk[name] = x
		}
	})
	return nil
}

// power is what there is when the power comes back.
func (m *model) power() {
	for _, c := range m.pending {
		switch {
		case m.r.IntN(2) == 0:
		case c.is != nil:
			m.disk[c.name] = c.is
		default:
			delete(m.disk, c.name)
		}
	}
	for _, x := range m.written {
		n := len(x.disk)
		x.disk = append(x.disk, make([]byte, len(x.live)-n)...)
		m.tear(x.disk[n:], []byte(strings.Repeat("?", chunk)))
		if m.r.IntN(3) == 0 {
			x.disk = x.disk[:m.r.IntN(len(x.disk)+1)]
		}
	}
	m.dir, m.pending, m.written, m.freed = map[string]*extent{}, nil, nil, nil
	for name, x := range m.disk {
		x.live = bytes.Clone(x.disk)
		if m.dir[name] = x; x.freed > 0 && m.r.IntN(2) == 0 {
			m.freed = append(m.freed, x) // a name is back whose place is free
		}
	}
}

var errNothing = errors.New("there is nothing to start")

// start does what systemd-boot does (src/boot/efi/boot.c): of the slots that have tries
// left or need none, the newest, else the newest of the others; it counts the try in the
// name, and answers the name that is left in the variable, empty where it has no counter.
func (m *model) start() (name, path string, err error) {
	best := ""
	for n := range m.dir {
		s, ok := ParseSlot(n)
		if !ok {
			continue
		}
		b, _ := ParseSlot(best)
		bad, worse := !s.Blessed && s.Left == 0, !b.Blessed && b.Left == 0
		if best == "" || bit(bad) < bit(worse) || bad == worse && CompareVersions(s.Version, b.Version) > 0 {
			best = n
		}
	}
	s, ok := ParseSlot(best)
	if !ok {
		return "", "", errNothing
	}
	if s.Blessed {
		return best, "", nil
	}
	next := countedName(s.Version, max(0, s.Left-1), s.Tried+1)
	if err := m.Rename(best, next); err != nil {
		return "", "", err
	}
	_ = m.Sync()
	return next, `\EFI\Linux\` + next, nil
}
