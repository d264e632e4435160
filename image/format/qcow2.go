package format

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
)

// qcow2 version 3, as docs/interop/qcow2.txt of QEMU describes it.
const (
	qcowBits    = 16
	qcowCluster = 1 << qcowBits
	qcowCopied  = 1 << 63
	qcowPacked  = 1 << 62
	qcowOffset  = 62 - (qcowBits - 8) // bits of a compressed cluster's host offset
	qcowWindow  = 4096                // QEMU inflates with a window of 2^12 bytes
)

// qcow is a file while it is written: header and L1 table in front, then data, then what
// tells where it is.
type qcow struct {
	w    io.WriterAt
	end  int64            // where the next byte goes
	l2   map[int64][]byte // tables that hold something, by number
	refs []uint16         // by host cluster
}

// QCOW2 writes d as qcow2 with compressed clusters. w must be empty.
func QCOW2(w io.WriterAt, d *Disk) error {
	tables := (d.size/qcowCluster + qcowCluster/8 - 1) / (qcowCluster / 8)
	l1 := clusters(tables * 8)
	q := &qcow{w: w, end: qcowCluster * (1 + l1), l2: make(map[int64][]byte)}
	q.hold(0, q.end)
	var packed bytes.Buffer
	z, err := flate.NewWriterWindow(&packed, qcowWindow)
	if err != nil {
		return fmt.Errorf("compressing for qcow2: %w", err)
	}
	err = d.each(qcowCluster, func(at int64, piece []byte) error {
		packed.Reset()
		z.Reset(&packed)
		if _, err := z.Write(piece); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		entry, err := q.put(piece, packed.Bytes())
		if err == nil {
			q.note(at/qcowCluster, entry)
		}
		return err
	})
	if err == nil {
		err = q.finish(d.size, tables)
	}
	if err != nil {
		return fmt.Errorf("writing qcow2: %w", err)
	}
	return nil
}

func clusters(n int64) int64 { return (n + qcowCluster - 1) / qcowCluster }

// hold counts a reference to every cluster that n bytes at at touch.
func (q *qcow) hold(at, n int64) {
	last := (at + n - 1) / qcowCluster
	for int64(len(q.refs)) <= last {
		q.refs = append(q.refs, 0)
	}
	for i := at / qcowCluster; i <= last; i++ {
		q.refs[i]++
	}
}

// put writes a cluster, packed where that saves anything, and returns its L2 entry.
func (q *qcow) put(piece, packed []byte) (uint64, error) {
	if len(packed) >= qcowCluster {
		at, err := q.whole(piece)
		return uint64(at) | qcowCopied, err
	}
	at := q.end
	if _, err := q.w.WriteAt(packed, at); err != nil {
		return 0, err
	}
	q.end += int64(len(packed))
	more := (q.end-1)/512 - at/512 // sectors besides the first
	q.hold(at, q.end-at)
	return qcowPacked | uint64(more)<<qcowOffset | uint64(at), nil
}

// whole writes b, padded to whole clusters, at the next one.
func (q *qcow) whole(b []byte) (int64, error) {
	at := clusters(q.end) * qcowCluster
	n := clusters(int64(len(b))) * qcowCluster
	if pad := n - int64(len(b)); pad > 0 {
		b = append(bytes.Clone(b), make([]byte, pad)...)
	}
	if _, err := q.w.WriteAt(b, at); err != nil {
		return 0, err
	}
	q.hold(at, n)
	q.end = at + n
	return at, nil
}

// note enters a guest cluster's entry in its L2 table.
func (q *qcow) note(cluster int64, entry uint64) {
	const per = qcowCluster / 8
	t := q.l2[cluster/per]
	if t == nil {
		t = make([]byte, qcowCluster)
		q.l2[cluster/per] = t
	}
	binary.BigEndian.PutUint64(t[cluster%per*8:], entry)
}

// finish writes the tables and, last, the header.
func (q *qcow) finish(size, tables int64) error {
	l1 := make([]byte, clusters(tables*8)*qcowCluster)
	for i := range tables {
		if t := q.l2[i]; t != nil {
			at, err := q.whole(t)
			if err != nil {
				return err
			}
			binary.BigEndian.PutUint64(l1[i*8:], uint64(at)|qcowCopied)
		}
	}
	if _, err := q.w.WriteAt(l1, qcowCluster); err != nil {
		return err
	}
	refs, refClusters, err := q.counts()
	if err != nil {
		return err
	}
	h := make([]byte, qcowCluster)
	copy(h, "QFI\xfb")
	be := binary.BigEndian
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], qcowBits)
	be.PutUint64(h[24:], uint64(size))
	be.PutUint32(h[36:], uint32(tables))
	be.PutUint64(h[40:], qcowCluster) // L1 table
	be.PutUint64(h[48:], uint64(refs))
	be.PutUint32(h[56:], uint32(refClusters))
	be.PutUint32(h[96:], 4)    // refcounts of 2^4 bits
	be.PutUint32(h[100:], 104) // length of this header
	_, err = q.w.WriteAt(h, 0)
	return err
}

// counts writes refcount blocks and their table, which count themselves, and returns where
// the table is and how many clusters it has.
func (q *qcow) counts() (at, n int64, err error) {
	const per = qcowCluster / 2
	used := clusters(q.end)
	blocks, table := int64(0), int64(0)
	for {
		b := (used + blocks + table + per - 1) / per
		t := clusters(b * 8)
		if b == blocks && t == table {
			break
		}
		blocks, table = b, t
	}
	first := used * qcowCluster
	q.hold(first, (blocks+table)*qcowCluster)
	q.end = first
	index := make([]byte, table*qcowCluster)
	for i := range blocks {
		block := make([]byte, qcowCluster)
		for j, r := range q.refs[i*per : min((i+1)*per, int64(len(q.refs)))] {
			binary.BigEndian.PutUint16(block[j*2:], r)
		}
		binary.BigEndian.PutUint64(index[i*8:], uint64(first+i*qcowCluster))
		if _, err := q.w.WriteAt(block, first+i*qcowCluster); err != nil {
			return 0, 0, err
		}
	}
	at = first + blocks*qcowCluster
	_, err = q.w.WriteAt(index, at)
	return at, table, err
}
