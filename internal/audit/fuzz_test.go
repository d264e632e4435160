package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func sha(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// FuzzSegment reads arbitrary bytes as a segment: it must not panic, must count every
// byte it accepts, and what it accepts must be what it would write itself.
func FuzzSegment(f *testing.F) {
	dir := f.TempDir()
	c, err := Open(Config{Dir: dir})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := c.Append(entry(1), entry(2)); err != nil {
		f.Fatal(err)
	}
	good, _ := os.ReadFile(filepath.Join(dir, segmentName(1)))
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(good[:bytes.IndexByte(good, '\n')+1])
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newLineReader(bytes.NewReader(b))
		h, err := r.header()
		if err != nil {
			return
		}
		line, sum, err := encodeLine(h)
		if err != nil || sum != r.head.Hash {
			t.Fatalf("header does not encode again: %v", err)
		}
		again := line
		for {
			before := r.head
			e, err := r.entry()
			if err != nil {
				if errors.Is(err, io.EOF) && !bytes.Equal(again, b) {
					t.Fatal("accepted bytes that the log would not write")
				}
				break
			}
			line, sum, err := encodeLine(record{formatVersion, before.Sequence + 1, e, before.Hash})
			if err != nil || sum != r.head.Hash {
				t.Fatalf("entry does not encode again: %v", err)
			}
			again = append(again, line...)
		}
		if !bytes.HasPrefix(b, again) || r.good != int64(len(again)) {
			t.Fatal("counted bytes that were not accepted")
		}
	})
}
