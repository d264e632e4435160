package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"lazaret/internal/durable"
)

// DefaultSegmentSize is how many bytes a segment grows to before the next begins. The last
// one is read and checked at each start, 2,500 entries in a mebibyte.
const DefaultSegmentSize = 1 << 20

// ErrBroken reports segments that do not reach the head that was kept of them, or do
// not follow from each other. A *Fault says where.
var ErrBroken = errors.New("audit log is broken")

// Config says where a Chain writes.
type Config struct {
	Dir         string           // required: made with mode 0700
	Head        Head             // the head kept elsewhere of this chain; zero for a new one
	SegmentSize int64            // optional: DefaultSegmentSize
	Clock       func() time.Time // optional: time.Now
	Log         *slog.Logger     // optional: discards
	AcceptBreak bool             // optional: begin a new segment, which says so, where Open would refuse
}

// Chain appends to the log. One goroutine uses it at a time, and one Chain a directory.
type Chain struct {
	cfg    Config
	file   *os.File
	size   int64
	head   Head
	beyond []Entry // found behind cfg.Head when opened
	err    error   // a failed write; the chain must be opened anew
}

// Open opens the chain for appending. What stands behind c.Head and is torn or
// unreadable is cut off: only what was chained but not yet acknowledged is there, and
// it is appended again. Everything up to c.Head must be whole, from c.Head's segment on,
// else a *Fault that wraps ErrBroken is returned.
func Open(c Config) (*Chain, error) {
	if c.SegmentSize <= 0 {
		c.SegmentSize = DefaultSegmentSize
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	ch := &Chain{cfg: c}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making audit directory: %w", err)
	}
	names, err := segments(os.DirFS(c.Dir))
	if err != nil {
		return nil, fmt.Errorf("listing audit segments: %w", err)
	}
	if len(names) == 0 && c.Head == (Head{}) {
		return ch, ch.begin(Head{}, "")
	}
	err = ch.resume(names)
	if errors.Is(err, ErrBroken) && c.AcceptBreak {
		c.Log.Error("audit log is broken; beginning a new segment as told", "err", err)
		return ch, ch.begin(ch.lastClaim(names), err.Error())
	}
	if err != nil {
		ch.Close()
		return nil, err
	}
	return ch, nil
}

// Head returns the end of the chain, on disk.
func (c *Chain) Head() Head { return c.head }

// Beyond returns the entries that stood behind Config.Head when the chain was opened:
// chained before a crash, but not acknowledged.
func (c *Chain) Beyond() []Entry { return c.beyond }

// Close closes the segment.
func (c *Chain) Close() error {
	if c.file == nil {
		return nil
	}
	err := c.file.Close()
	c.file = nil
	return err
}

// Append chains entries and returns the new head once they are on disk. After an error
// the chain must be closed and opened again with the head last kept.
func (c *Chain) Append(entries ...Entry) (Head, error) {
	if c.err != nil {
		return c.head, c.err
	}
	for len(entries) > 0 {
		n, err := c.appendSome(entries)
		if err != nil {
			c.err = fmt.Errorf("appending to audit segment %d: %w", c.head.Segment, err)
			return c.head, c.err
		}
		entries = entries[n:]
	}
	return c.head, nil
}

// appendSome writes as many entries as fit into the present segment, at least one, in
// one write and one flush.
func (c *Chain) appendSome(entries []Entry) (int, error) {
	if c.size >= c.cfg.SegmentSize {
		if err := c.begin(c.head, ""); err != nil {
			return 0, err
		}
	}
	var out []byte
	head, n := c.head, 0
	for ; n < len(entries) && c.size+int64(len(out)) < c.cfg.SegmentSize; n++ {
		line, sum, err := encodeLine(record{formatVersion, head.Sequence + 1, fit(entries[n]), head.Hash})
		if err != nil {
			return 0, err
		}
		out = append(out, line...)
		head.Sequence, head.Hash = head.Sequence+1, sum
	}
	if _, err := c.file.Write(out); err != nil {
		return 0, err
	}
	if err := c.file.Sync(); err != nil {
		return 0, err
	}
	c.size += int64(len(out))
	c.head = head
	return n, nil
}

// begin starts the segment that follows prev. Its header is on disk under a temporary
// name first, so that a segment never lacks one.
func (c *Chain) begin(prev Head, broken string) error {
	c.Close()
	h := header{formatVersion, prev.Segment + 1, prev.Sequence, c.cfg.Clock().UTC(), broken, prev.Hash}
	line, sum, err := encodeLine(h)
	if err != nil {
		return err
	}
	path := filepath.Join(c.cfg.Dir, segmentName(h.Segment))
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("beginning audit segment %d: %w", h.Segment, err)
	}
	c.file = f
	if _, err := f.Write(line); err != nil {
		return fmt.Errorf("beginning audit segment %d: %w", h.Segment, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("beginning audit segment %d: %w", h.Segment, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("beginning audit segment %d: %w", h.Segment, err)
	}
	if err := durable.SyncDir(c.cfg.Dir); err != nil {
		return fmt.Errorf("beginning audit segment %d: %w", h.Segment, err)
	}
	c.size = int64(len(line))
	c.head = Head{h.Segment, h.Sequence, sum}
	return nil
}

// resume reads from the kept head's segment to the end, repairs the end, and opens it.
func (c *Chain) resume(names []string) error {
	from := 0
	if c.cfg.Head != (Head{}) {
		from = slices.Index(names, segmentName(c.cfg.Head.Segment))
	}
	if from < 0 || len(names) == 0 {
		return &Fault{Segment: c.cfg.Head.Segment, What: "the segment that holds the kept head is missing"}
	}
	seen := c.cfg.Head == (Head{})
	for i, name := range names[from:] {
		last := from+i == len(names)-1
		if err := c.resumeSegment(name, i == 0, last, &seen); err != nil {
			return err
		}
	}
	if !seen {
		return &Fault{Segment: c.head.Segment, File: names[len(names)-1], What: fmt.Sprintf(
			"the log ends with entry %d of segment %d, but the kept head is entry %d of segment %d: the tail is cut, or altered",
			c.head.Sequence, c.head.Segment, c.cfg.Head.Sequence, c.cfg.Head.Segment)}
	}
	return nil
}

func (c *Chain) resumeSegment(name string, first, last bool, seen *bool) error {
	path := filepath.Join(c.cfg.Dir, name)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening audit segment: %w", err)
	}
	c.Close()
	c.file = f
	r := newLineReader(f)
	h, err := r.header()
	if err != nil {
		return r.fault(name, err)
	}
	if err := follows(name, h, c.head, first); err != nil {
		return r.fault(name, err)
	}
	*seen = *seen || r.head == c.cfg.Head
	for {
		e, err := r.entry()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && *seen && last {
			c.cfg.Log.Warn("cutting off what a crash left behind the kept head of the audit log", "segment", name, "line", r.number, "why", err)
			if err := f.Truncate(r.good); err != nil {
				return fmt.Errorf("cutting torn end of %s: %w", name, err)
			}
			if err := f.Sync(); err != nil {
				return fmt.Errorf("cutting torn end of %s: %w", name, err)
			}
			break
		}
		if err != nil {
			return r.fault(name, err)
		}
		if *seen {
			c.beyond = append(c.beyond, e)
		}
		*seen = *seen || r.head == c.cfg.Head
	}
	c.head, c.size = r.head, r.good
	_, err = f.Seek(r.good, io.SeekStart)
	return err
}

// lastClaim is what a segment begun by force is chained to: the last line that can be
// read, or the kept head where that is later.
func (c *Chain) lastClaim(names []string) Head {
	claim := c.cfg.Head
	if len(names) == 0 {
		return claim
	}
	name := names[len(names)-1]
	number, _ := segmentNumber(name)
	f, err := os.Open(filepath.Join(c.cfg.Dir, name))
	if err != nil {
		return Head{max(number, claim.Segment), claim.Sequence, claim.Hash}
	}
	defer f.Close()
	r := newLineReader(f)
	if _, err = r.header(); err == nil {
		for err == nil {
			_, err = r.entry()
		}
	}
	return Head{max(number, claim.Segment), max(claim.Sequence, r.head.Sequence), r.head.Hash}
}

// follows checks that a segment's header continues from the head before.
func follows(name string, h header, before Head, first bool) error {
	if segmentName(h.Segment) != name {
		return fmt.Errorf("the file holds segment %d", h.Segment)
	}
	if first {
		return nil
	}
	switch {
	case h.Segment != before.Segment+1:
		return fmt.Errorf("segment %d follows segment %d: segments are missing", h.Segment, before.Segment)
	case h.Prev != before.Hash:
		return fmt.Errorf("the segment was chained to another end of segment %d: that one was changed or cut", before.Segment)
	case h.Sequence != before.Sequence && h.Break == "":
		return fmt.Errorf("the segment begins behind entry %d, the one before ends with %d", h.Sequence, before.Sequence)
	}
	return nil
}

// fit makes an entry one line that reads back as it was written: text that is no UTF-8
// is mended, and what is too long is cut, since an entry that could never be chained
// would hold up all that follow.
func fit(e Entry) Entry {
	const most, fields = 4 << 10, 16 // of a long entry: bytes of a text, details
	e.Version = formatVersion
	e.Time = e.Time.UTC()
	if y := e.Time.Year(); y < 0 || y > 9999 { // no JSON form
		e.Time = time.Time{}
	}
	total := len(e.ID) + len(e.Action) + len(e.Device) + len(e.Subject) + len(e.Actor.Name) + len(e.Actor.Address) + len(e.Actor.Kind)
	for k, v := range e.Detail {
		total += len(k) + len(v)
	}
	long := total > maxLine/8 // a byte takes six in JSON at most
	text := func(s string) string {
		if long && len(s) > most {
			s = s[:most/2] + " (cut)"
		}
		return strings.ToValidUTF8(s, "\ufffd")
	}
	e.ID, e.Action, e.Device, e.Subject = text(e.ID), text(e.Action), text(e.Device), text(e.Subject)
	e.Actor = Actor{text(e.Actor.Kind), text(e.Actor.Name), text(e.Actor.Address)}
	if e.Detail == nil {
		return e
	}
	detail := make(map[string]string, len(e.Detail))
	for _, k := range slices.Sorted(maps.Keys(e.Detail)) {
		if long && len(detail) >= fields {
			break
		}
		detail[text(k)] = text(e.Detail[k])
	}
	e.Detail = detail
	return e
}

func segmentName(n uint64) string { return fmt.Sprintf("segment-%010d.jsonl", n) }

// segmentNumber is the number in a segment's file name.
func segmentNumber(name string) (uint64, bool) {
	var n uint64
	if _, err := fmt.Sscanf(name, "segment-%010d.jsonl", &n); err != nil || segmentName(n) != name {
		return 0, false
	}
	return n, true
}

// segments lists a directory's segment files, in order.
func segments(fsys fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if _, ok := segmentNumber(e.Name()); ok && e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}
