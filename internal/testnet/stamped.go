package testnet

import (
	"bytes"
	"encoding/binary"
	"sync/atomic"
	"time"
)

// stamped is the beginning of every message that probes and streams send: what a
// capture recognises it by, and what its receiver is to do.
type stamped struct {
	kind   kind
	stream uint32
	seq    uint64
	sent   Stamp
	size   uint32        // of the whole message
	every  time.Duration // pace asked for, in a hello
}

// kind says what a server does with messages of a stream.
type kind uint8

const (
	kindProbe    kind = iota + 1 // return this one
	kindUpload                   // return number 0, swallow the others
	kindDownload                 // send, from number 1 on
	kindEcho                     // return each
)

// stampedLen is the length of the encoded beginning, and the shortest message.
const stampedLen = 40

// maxStamped is the longest message, more than any packet holds.
const maxStamped = 64 << 10

// MessageLen is the length of what [Message] returns.
const MessageLen = stampedLen

// Message is the beginning of a probe's message, stamped with this instant, for packets
// made by hand: what captures recognise them by. A server echoes it.
func Message(stream uint32, seq uint64) []byte {
	return stamped{kind: kindProbe, stream: stream, seq: seq, sent: Now(), size: stampedLen}.bytes()
}

// NewStream returns a number that no other message of this process has, and hardly any of
// another one. It counts, from anywhere: of a million random numbers some would come twice, and
// what passed as it should would be taken for something else.
func NewStream() uint32 { return streams.Add(2) }

var streams = func() *atomic.Uint32 {
	var n atomic.Uint32
	n.Store(newStream())
	return &n
}()

var stampedMagic = []byte("\xf5LZ\x01")

// put writes the beginning into b, which has at least stampedLen bytes.
func (m stamped) put(b []byte) {
	copy(b, stampedMagic)
	binary.BigEndian.PutUint32(b[4:], m.stream)
	binary.BigEndian.PutUint64(b[8:], m.seq)
	binary.BigEndian.PutUint64(b[16:], uint64(m.sent))
	binary.BigEndian.PutUint32(b[24:], m.size)
	binary.BigEndian.PutUint64(b[28:], uint64(m.every))
	b[36] = byte(m.kind)
	clear(b[37:stampedLen])
}

// bytes returns the whole message, as long as it says.
func (m stamped) bytes() []byte {
	b := make([]byte, m.size)
	m.put(b)
	return b
}

// getStamped reads a message's beginning at the start of b.
func getStamped(b []byte) (stamped, bool) {
	if len(b) < stampedLen || !bytes.HasPrefix(b, stampedMagic) {
		return stamped{}, false
	}
	m := stamped{
		kind:   kind(b[36]),
		stream: binary.BigEndian.Uint32(b[4:]),
		seq:    binary.BigEndian.Uint64(b[8:]),
		sent:   Stamp(binary.BigEndian.Uint64(b[16:])),
		size:   binary.BigEndian.Uint32(b[24:]),
		every:  time.Duration(binary.BigEndian.Uint64(b[28:])),
	}
	return m, m.stream != 0 && m.size >= stampedLen && m.size <= maxStamped && m.kind >= kindProbe && m.kind <= kindEcho
}

// findStamped reads the first message that begins anywhere in b, since a TCP
// segment may begin within one.
func findStamped(b []byte) (stamped, bool) {
	for {
		i := bytes.Index(b, stampedMagic)
		if i < 0 {
			return stamped{}, false
		}
		if m, ok := getStamped(b[i:]); ok {
			return m, true
		}
		b = b[i+1:]
	}
}
