package console

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"lazaret/internal/console/api"
)

const (
	// readAnyway is how much of a body net/http reads by itself before it answers.
	readAnyway = 256 << 10
	// lingerTime is how long what was refused is read on and thrown away, at most.
	lingerTime = 30 * time.Second
	// lingerSilence is how long its sender may say nothing meanwhile.
	lingerSilence = 5 * time.Second
)

// intake is a request's body. Closing a connection on which something waits to be read resets
// it, and takes from the sender an answer that it did not read yet (RFC 9112, section 9.6):
// who is refused in the middle of a large body is answered, and then the rest is read.
type intake struct {
	io.ReadCloser // bounded
	silence       time.Duration

	turn sync.Mutex // held while it is read
	over bool       // it ended
}

// Read implements io.Reader.
func (b *intake) Read(p []byte) (int, error) {
	b.turn.Lock()
	defer b.turn.Unlock()
	n, err := b.ReadCloser.Read(p)
	b.over = b.over || err != nil
	return n, err
}

// unread is the request's body, if more of it may come than net/http reads by itself. The
// streams of HTTP/2 end each for itself.
func unread(r *http.Request) (*intake, bool) {
	b, ok := r.Body.(*intake)
	if !ok || r.ProtoMajor != 1 || r.ContentLength >= 0 && r.ContentLength <= readAnyway {
		return nil, false
	}
	if b.turn.TryLock() { // else it is being read
		defer b.turn.Unlock()
		ok = !b.over
	}
	return b, ok
}

// refuse answers and reads on. It answers first, for a sender that listens meanwhile; that the
// connection ends then is in the answer. It returns whether it did.
func (b *intake) refuse(w http.ResponseWriter, status int, p api.Problem) bool {
	text, err := json.Marshal(p)
	c := http.NewResponseController(w)
	if err != nil || c.EnableFullDuplex() != nil {
		return false
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	h.Set("Connection", "close")
	w.WriteHeader(status)
	if _, err := w.Write(text); err != nil || c.Flush() != nil {
		return true // the sender is gone
	}
	for end := time.Now().Add(lingerTime); ; {
		at := time.Now().Add(b.silence)
		if at.After(end) {
			at = end
		}
		if c.SetReadDeadline(at) != nil {
			return true
		}
		if _, err := io.CopyN(io.Discard, b, 32<<10); err != nil {
			return true
		}
	}
}
