package tunnel

import (
	"sync"

	"golang.zx2c4.com/wireguard/conn"
)

// parcel is some packets on their way to a shard, in one piece of memory. It is copied
// in and out, since a device keeps the buffers it reads into.
type parcel struct {
	data []byte
	ends []int           // where each packet ends in data
	from []conn.Endpoint // of datagrams: who sent each
}

var parcels = sync.Pool{New: func() any { return new(parcel) }}

func (p *parcel) add(packet []byte, from conn.Endpoint) {
	p.data = append(p.data, packet...)
	p.ends = append(p.ends, len(p.data))
	p.from = append(p.from, from)
}

// unpack copies the packets out, each from offset on, and returns how many there were.
// What does not fit is dropped; from may be nil.
func (p *parcel) unpack(bufs [][]byte, sizes []int, from []conn.Endpoint, offset int) int {
	start := 0
	n := min(len(p.ends), len(bufs))
	for i, end := range p.ends[:n] {
		sizes[i] = copy(bufs[i][offset:], p.data[start:end])
		if from != nil {
			from[i] = p.from[i]
		}
		start = end
	}
	return n
}

// free gives the memory back; p must not be used any more.
func (p *parcel) free() {
	p.data, p.ends = p.data[:0], p.ends[:0]
	clear(p.from)
	p.from = p.from[:0]
	parcels.Put(p)
}

// queueLength bounds the parcels that wait for one shard: 16 of at most 128 packets.
const queueLength = 16

// queue carries parcels to a shard. Like a socket it is opened and closed, and may be
// opened again. A full queue makes the sender wait, as a device does that cannot
// keep up; a closed one swallows.
type queue struct {
	parcels chan *parcel

	mu   sync.Mutex
	open bool
	done chan struct{} // closed while the queue is closed
}

func newQueue() *queue {
	done := make(chan struct{})
	close(done)
	return &queue{parcels: make(chan *parcel, queueLength), done: done}
}

func (q *queue) reopen() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.open {
		q.open, q.done = true, make(chan struct{})
	}
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.open {
		q.open = false
		close(q.done)
	}
}

func (q *queue) closed() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.done
}

func (q *queue) put(p *parcel) {
	select {
	case q.parcels <- p:
	case <-q.closed():
		p.free()
	}
}

// get waits for the next parcel; nil: the queue is closed.
func (q *queue) get() *parcel {
	select {
	case p := <-q.parcels:
		return p
	case <-q.closed():
		return nil
	}
}
