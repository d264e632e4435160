package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// A segment is a file of JSON lines. The first is its header, the others carry one
// entry each. Every line ends with its own hash: the SHA-256 of the line without its
// hash member, which includes the hash of the line before. Lines have one encoding
// only, so that a line that reads well is byte for byte what was written.
const (
	formatVersion = 1
	maxLine       = 1 << 20 // bytes; longer lines are refused
	hashTail      = len(`,"hash":""}`) + 2*sha256.Size
)

// Hash is the SHA-256 of a line.
type Hash [sha256.Size]byte

// String returns the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 2*sha256.Size {
		return fmt.Errorf("hash of %d characters, want %d", len(b), 2*sha256.Size)
	}
	_, err := hex.Decode(h[:], b)
	return err
}

// Head is the end of a chain. Kept elsewhere, it shows later that nothing before it was
// changed or cut. The zero Head is the beginning of every chain.
type Head struct {
	Segment  uint64 `json:"segment"`
	Sequence uint64 `json:"sequence"` // of the last entry; the first entry is 1
	Hash     Hash   `json:"hash"`
}

// header is the first line of a segment.
type header struct {
	Version  int       `json:"v"`
	Segment  uint64    `json:"segment"`
	Sequence uint64    `json:"sequence"` // of the last entry before this segment
	Created  time.Time `json:"created"`
	Break    string    `json:"break,omitempty"` // what was missing when it was begun by force
	Prev     Hash      `json:"prev"`
}

// record is every further line.
type record struct {
	Version  int    `json:"v"`
	Sequence uint64 `json:"sequence"`
	Entry    Entry  `json:"entry"`
	Prev     Hash   `json:"prev"`
}

// encodeLine returns a line with its newline, and its hash.
func encodeLine(v any) ([]byte, Hash, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, Hash{}, err
	}
	sum := Hash(sha256.Sum256(body))
	line := append(body[:len(body)-1], `,"hash":"`...)
	line = hex.AppendEncode(line, sum[:])
	return append(line, "\"}\n"...), sum, nil
}

// decodeLine reads a line without its newline into v, a *header or *record, and
// returns the line's hash.
func decodeLine(line []byte, v any) (Hash, error) {
	if len(line) < hashTail {
		return Hash{}, errors.New("too short for a line of the log")
	}
	body := append(bytes.Clone(line[:len(line)-hashTail]), '}')
	sum := Hash(sha256.Sum256(body))
	if want := `,"hash":"` + sum.String() + `"}`; string(line[len(line)-hashTail:]) != want {
		return Hash{}, errors.New("the line does not match its own hash")
	}
	if err := json.Unmarshal(body, v); err != nil {
		return Hash{}, fmt.Errorf("the line is not of the log: %w", err)
	}
	if again, err := json.Marshal(v); err != nil || !bytes.Equal(again, body) {
		return Hash{}, errors.New("the line is not in the log's own form, or of a later version")
	}
	return sum, nil
}

// errTorn reports a last line without its newline, as a crash leaves it.
var errTorn = errors.New("the last line is torn")

// lineReader reads the lines of one segment and checks the chain along the way.
type lineReader struct {
	r      *bufio.Reader
	head   Head  // after the line read last
	number int   // of the line read last, from 1
	good   int64 // bytes up to the end of the line read last
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 64<<10)}
}

// raw returns the next line without its newline: io.EOF at the end, errTorn for a rest.
func (l *lineReader) raw() ([]byte, error) {
	var line []byte
	for {
		part, err := l.r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case len(line) > maxLine:
			return nil, fmt.Errorf("the line is longer than %d bytes", maxLine)
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, errTorn
		default:
			return nil, err
		}
	}
}

// header reads the first line. It must be called once, before entry.
func (l *lineReader) header() (header, error) {
	l.number++
	line, err := l.raw()
	if err != nil {
		return header{}, err
	}
	var h header
	sum, err := decodeLine(line, &h)
	if err != nil {
		return header{}, err
	}
	if h.Version != formatVersion {
		return header{}, fmt.Errorf("the segment has version %d, this program reads %d", h.Version, formatVersion)
	}
	l.good += int64(len(line)) + 1
	l.head = Head{Segment: h.Segment, Sequence: h.Sequence, Hash: sum}
	return h, nil
}

// entry reads the next line, which must follow from the one before.
func (l *lineReader) entry() (Entry, error) {
	line, err := l.raw()
	if errors.Is(err, io.EOF) {
		return Entry{}, err
	}
	l.number++
	if err != nil {
		return Entry{}, err
	}
	var rec record
	sum, err := decodeLine(line, &rec)
	if err != nil {
		return Entry{}, err
	}
	switch {
	case rec.Version != formatVersion || rec.Entry.Version != formatVersion:
		return Entry{}, fmt.Errorf("the line has version %d, this program reads %d", rec.Version, formatVersion)
	case rec.Sequence != l.head.Sequence+1:
		return Entry{}, fmt.Errorf("entry %d follows entry %d: lines were deleted, added or moved", rec.Sequence, l.head.Sequence)
	case rec.Prev != l.head.Hash:
		return Entry{}, errors.New("the line before is not the one this line was chained to: it was changed")
	}
	l.good += int64(len(line)) + 1
	l.head.Sequence, l.head.Hash = rec.Sequence, sum
	return rec.Entry, nil
}
