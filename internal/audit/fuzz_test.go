package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"testing"
)

func sha(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// FuzzSegment reads arbitrary bytes as a segment: it must not panic, must count every
// byte it accepts, and what it accepts must be what it would write itself.
func FuzzSegment(f *testing.F) {
	good := segment(f)
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

// segment is a small segment, the same every time.
func segment(t testing.TB) []byte {
	t.Helper()
	out, sum, err := encodeLine(header{Version: formatVersion, Segment: 1, Created: epoch})
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		line, next, err := encodeLine(record{formatVersion, uint64(n), fit(entry(n)), sum})
		if err != nil {
			t.Fatal(err)
		}
		out, sum = append(out, line...), next
	}
	return out
}
