package quarantine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// ErrDamaged reports a journal with a damaged line, not just a torn tail: a tightening may be
// lost, and only a person can say what to do about it.
var ErrDamaged = errors.New("the journal of tightenings is damaged")

// compactAbove is the size in bytes up to which a journal is never rewritten.
const compactAbove = 64 << 10

// Journal is the file of tightenings that the store has not taken in yet. A line is
//
//	1 <CRC-32C of the JSON, 8 hexadecimal digits> <JSON>\n
//
// where 1 is the version of the format, and the JSON a change, or word that changes of a
// device are done. Only this package writes it, from one process at a time.
type Journal struct {
	path string

	mu      sync.Mutex // guards all below, but not while syncing
	file    *os.File
	pending map[ID][]Change
	size    int64 // bytes
	limit   int64 // size from which to rewrite it
	broken  bool  // the file is not what it should be: rewrite it before the next line
	torn    int   // bytes dropped from the tail by OpenJournal
	written uint64

	sync   sync.Mutex // one fsync at a time; several appends share one
	synced uint64
}

// line is the JSON of one line: exactly one of its fields is set.
type line struct {
	Change *Change   `json:"change,omitempty"`
	Done   *doneLine `json:"done,omitempty"`
}

// doneLine strikes one change off, and the reports of its source before it.
type doneLine struct {
	Device  ID     `json:"device"`
	Tighten uint64 `json:"tighten"`
	Source  string `json:"source,omitempty"` // of a report
}

func doneWith(c Change) doneLine {
	d := doneLine{Device: c.Device, Tighten: c.Tighten}
	if c.Kind == Reported && c.Report != nil {
		d.Source = c.Report.Source
	}
	return d
}

// strikes reports whether d takes c off the journal. A report goes with a later one of its
// source, which superseded it; nothing else goes with a change but itself, since what is
// before it may not be recorded.
func (d doneLine) strikes(c Change) bool {
	if c.Tighten == d.Tighten {
		return true
	}
	return d.Source != "" && d.Source == doneWith(c).Source && c.Tighten < d.Tighten
}

// OpenJournal opens or creates the journal at path, mode 0600, and reads what is pending.
// A torn tail, from a crash while a line was written, is cut off: its Append never
// returned. Any other damage is ErrDamaged.
func OpenJournal(path string) (*Journal, error) {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	pending, good, err := readJournal(b)
	if err != nil {
		return nil, fmt.Errorf("reading the journal %s: %w", path, err)
	}
	j := &Journal{path: path, pending: pending, torn: len(b) - good}
	if err := j.rewrite(); err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	return j, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// readJournal returns what is pending in b, and how many bytes of it are whole lines.
func readJournal(b []byte) (pending map[ID][]Change, good int, err error) {
	pending = make(map[ID][]Change)
	var bad error
	for n, at := 1, 0; at < len(b); n++ {
		end := bytes.IndexByte(b[at:], '\n')
		if end < 0 {
			break
		}
		l, err := parseLine(b[at : at+end])
		at += end + 1
		switch {
		case err != nil && bad == nil:
			bad = fmt.Errorf("%w: line %d: %w; a tightening may be lost: check which devices should be in quarantine, then move the file away", ErrDamaged, n, err)
		case err != nil: // more of the same, or a torn tail
		case bad != nil:
			return nil, good, bad
		default:
			good = at
			applyLine(pending, l)
		}
	}
	if bad != nil && bytes.IndexByte(b[good:], 0) < 0 {
		return nil, good, bad // a whole line, and wrong; a crash leaves part of one, or a hole of zeros
	}
	return pending, good, nil
}

func applyLine(pending map[ID][]Change, l line) {
	if l.Change != nil {
		pending[l.Change.Device] = merged(pending[l.Change.Device], *l.Change)
		return
	}
	left := slices.DeleteFunc(pending[l.Done.Device], l.Done.strikes)
	if len(left) == 0 {
		delete(pending, l.Done.Device)
		return
	}
	pending[l.Done.Device] = left
}

func parseLine(b []byte) (line, error) {
	var l line
	if !bytes.HasPrefix(b, []byte("1 ")) {
		version, _, _ := bytes.Cut(b, []byte(" "))
		return l, fmt.Errorf("unknown version %.10q", version)
	}
	if len(b) < 12 || b[10] != ' ' {
		return l, errors.New("no checksum")
	}
	body := b[11:]
	if want := fmt.Sprintf("%08x", crc32.Checksum(body, castagnoli)); want != string(b[2:10]) {
		return l, errors.New("wrong checksum")
	}
	if err := json.Unmarshal(body, &l); err != nil {
		return l, err
	}
	if (l.Change == nil) == (l.Done == nil) {
		return l, errors.New("neither a change nor an end of one")
	}
	if c := l.Change; c != nil {
		if err := c.journalable(); err != nil {
			return l, err
		}
	}
	return l, nil
}

// journalable reports what keeps c from being replayed.
func (c Change) journalable() error {
	switch {
	case c.Device == "" || c.At.IsZero() || c.Tighten == 0:
		return errors.New("a journalled change needs a device, a time and a tighten counter")
	case c.Kind == Reported && c.Report == nil:
		return errors.New("a journalled report needs the report")
	}
	return nil
}

func formatLine(l line) ([]byte, error) {
	body, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "1 %08x %s\n", crc32.Checksum(body, castagnoli), body), nil
}

// Append writes c and returns once it is on the disk. Appends at the same time share one
// fsync.
func (j *Journal) Append(c Change) error {
	if err := c.journalable(); err != nil {
		return fmt.Errorf("journalling a change: %w", err)
	}
	seq, err := j.write(line{Change: &c})
	if err != nil {
		return fmt.Errorf("journalling a change: %w", err)
	}
	if err := j.flush(seq); err != nil {
		return fmt.Errorf("syncing the journal: %w", err)
	}
	return nil
}

// Done forgets c, and the reports that c superseded. It is not synced: a change that comes
// back after a crash is forgotten again, since its record holds it, or a later decision that
// lifted it.
func (j *Journal) Done(c Change) error {
	done := doneWith(c)
	if _, err := j.write(line{Done: &done}); err != nil {
		return fmt.Errorf("striking off the journal: %w", err)
	}
	return nil
}

// Pending returns what was appended and not done, by tighten counter: appends at the same
// time may stand in the file in another order.
func (j *Journal) Pending() map[ID][]Change {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := make(map[ID][]Change, len(j.pending))
	for id, changes := range j.pending {
		all[id] = slices.Clone(changes)
	}
	return all
}

// Torn is how many bytes OpenJournal cut off the tail.
func (j *Journal) Torn() int { return j.torn }

// Close closes the file.
func (j *Journal) Close() error {
	j.sync.Lock()
	defer j.sync.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.file.Close()
}

// write appends one line and returns its number. The change is pending even when the file
// could not take it, so that the next rewrite includes it.
func (j *Journal) write(l line) (uint64, error) {
	b, err := formatLine(l)
	if err != nil {
		return 0, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	applyLine(j.pending, l)
	j.written++
	if j.broken || j.size > j.limit {
		return j.written, j.rewrite()
	}
	if _, err := j.file.Write(b); err != nil {
		j.broken = true
		return j.written, err
	}
	j.size += int64(len(b))
	return j.written, nil
}

// flush returns once line seq is on the disk.
func (j *Journal) flush(seq uint64) error {
	j.sync.Lock()
	defer j.sync.Unlock()
	if j.synced >= seq {
		return nil
	}
	j.mu.Lock()
	file, written := j.file, j.written
	j.mu.Unlock()
	if err := file.Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.broken = true // what the kernel dropped it will not try again
		return err
	}
	j.synced = written
	return nil
}

// rewrite replaces the file by one that holds what is pending, synced. The caller holds mu
// or is the only one.
func (j *Journal) rewrite() error {
	j.broken = true
	var b []byte
	for _, changes := range j.pending {
		for _, c := range changes {
			l, err := formatLine(line{Change: &c})
			if err != nil {
				return err
			}
			b = append(b, l...)
		}
	}
	next := j.path + ".next"
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(next, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if err := install(f, b, next, j.path); err != nil {
		return errors.Join(err, f.Close())
	}
	if j.file != nil {
		j.file.Close() // everything in it that counts is in the new one
	}
	j.file, j.size, j.broken = f, int64(len(b)), false
	j.limit = max(compactAbove, 4*j.size)
	return nil
}

// install writes b to f and gives it its name, all of it synced.
func install(f *os.File, b []byte, from, to string) error {
	if _, err := io.Copy(f, bytes.NewReader(b)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
