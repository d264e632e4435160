package audit

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Fault is the first thing found wrong with a log. It wraps ErrBroken.
type Fault struct {
	Segment uint64
	File    string
	Line    int // from 1, the header; zero: the segment as a whole
	What    string
}

// Error says where and what.
func (f *Fault) Error() string {
	where := fmt.Sprintf("segment %d", f.Segment)
	if f.Line > 0 {
		where += fmt.Sprintf(", line %d", f.Line)
	}
	if f.File != "" {
		where += " (" + f.File + ")"
	}
	return fmt.Sprintf("%v: %s: %s", ErrBroken, where, f.What)
}

// Unwrap makes errors.Is(f, ErrBroken) true.
func (f *Fault) Unwrap() error { return ErrBroken }

// fault places an error of a line.
func (l *lineReader) fault(name string, err error) error {
	var f *Fault
	if errors.As(err, &f) {
		return err
	}
	number, _ := segmentNumber(name)
	what := err.Error()
	if errors.Is(err, io.EOF) {
		what = "the segment is empty"
	}
	return &Fault{Segment: number, File: name, Line: l.number, What: what}
}

// Report is what Verify read.
type Report struct {
	Segments int      `json:"segments"`
	Entries  uint64   `json:"entries"`
	First    Head     `json:"first"`            // what the first segment continues from
	Last     Head     `json:"last"`             // the end: keep it elsewhere
	Saved    bool     `json:"saved"`            // the saved head was found in the chain
	Torn     bool     `json:"torn,omitempty"`   // the last line is incomplete, behind the saved head
	Breaks   []string `json:"breaks,omitempty"` // segments begun by force, and why
}

// Verify reads all segments of a directory and checks that they form one chain from
// segment 1 on and reach the saved head, if one is given. The error is a *Fault for
// the first line that was edited, deleted, added or moved, for a log that is empty or
// lacks its beginning, or for a cut tail. Breaks are no error: they are in the Report,
// and whoever asks decides. Without a saved head, a tail cut at the end of a line cannot be seen.
func Verify(dir string, saved Head) (Report, error) {
	names, err := segments(os.DirFS(dir))
	if err != nil {
		return Report{}, fmt.Errorf("listing audit segments: %w", err)
	}
	paths := make([]string, len(names))
	for i, n := range names {
		paths[i] = filepath.Join(dir, n)
	}
	v := verifier{saved: saved, whole: true}
	return v.files(paths)
}

// VerifyFiles checks the given segments, which may begin at any number; Report.First
// tells from where on the check holds. Files keep the names they were written under.
func VerifyFiles(paths []string, saved Head) (Report, error) {
	paths = slices.Clone(paths)
	slices.SortFunc(paths, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	v := verifier{saved: saved}
	return v.files(paths)
}

func (v *verifier) files(paths []string) (Report, error) {
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return v.report, fmt.Errorf("opening audit segment: %w", err)
		}
		err = v.segment(filepath.Base(p), f)
		f.Close()
		if err != nil {
			return v.report, err
		}
	}
	return v.finish()
}

// VerifyTar checks the segments of an archive that Export wrote, as Verify does those of
// a directory.
func VerifyTar(r io.Reader, saved Head) (Report, error) {
	v := verifier{saved: saved, whole: true}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return v.finish()
		}
		if err != nil {
			return v.report, fmt.Errorf("reading audit archive: %w", err)
		}
		name := path.Base(h.Name)
		if _, ok := segmentNumber(name); !ok {
			continue
		}
		if err := v.segment(name, t); err != nil {
			return v.report, err
		}
	}
}

// verifier walks segments in order.
type verifier struct {
	saved  Head
	whole  bool // the log must begin with segment 1
	report Report
	last   string // name of the segment read last
}

func (v *verifier) segment(name string, f io.Reader) error {
	r := newLineReader(f)
	number, _ := segmentNumber(name)
	if v.whole && v.last == "" && number != 1 {
		return &Fault{Segment: number, File: name, What: fmt.Sprintf("the log begins here: segments 1 to %d are missing", number-1)}
	}
	if v.report.Torn {
		number, _ := segmentNumber(v.last)
		return &Fault{Segment: number, File: v.last, What: "the last line is torn, but another segment follows"}
	}
	h, err := r.header()
	if err != nil {
		return r.fault(name, err)
	}
	if err := follows(name, h, v.report.Last, v.last == ""); err != nil {
		return r.fault(name, err)
	}
	if v.last == "" {
		v.report.First = Head{h.Segment - 1, h.Sequence, h.Prev}
	}
	if h.Segment == 1 && (h.Sequence != 0 || h.Prev != Hash{}) && h.Break == "" {
		return r.fault(name, errors.New("the first segment must begin the chain"))
	}
	if h.Break != "" {
		v.report.Breaks = append(v.report.Breaks, fmt.Sprintf("segment %d: %s", h.Segment, h.Break))
	}
	v.last = name
	v.report.Segments++
	v.at(r.head)
	for {
		_, err := r.entry()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if errors.Is(err, errTorn) {
			v.report.Torn = true
			return nil
		}
		if err != nil {
			return r.fault(name, err)
		}
		v.report.Entries++
		v.at(r.head)
	}
}

func (v *verifier) at(h Head) {
	v.report.Last = h
	if h == v.saved {
		v.report.Saved = true
	}
}

func (v *verifier) finish() (Report, error) {
	r := v.report
	if r.Segments == 0 {
		return r, &Fault{Segment: 1, What: "there is no segment: a log has one from its first moment on"}
	}
	if v.saved == (Head{}) || r.Saved {
		return r, nil
	}
	what := fmt.Sprintf("the log does not pass through the saved head (segment %d, entry %d): it was written anew", v.saved.Segment, v.saved.Sequence)
	if r.Last.Sequence < v.saved.Sequence {
		what = fmt.Sprintf("the log ends with entry %d, but the saved head is entry %d of segment %d: the tail is cut", r.Last.Sequence, v.saved.Sequence, v.saved.Segment)
	}
	return r, &Fault{Segment: r.Last.Segment, File: v.last, What: what}
}
