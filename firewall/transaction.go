package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// transaction gathers the messages of one change of the table and sends them as one.
//
// The library makes those about tables, sets, chains and rules, which are few. Elements of which
// there may be very many are written here, into one piece of memory: the library takes several
// allocations and half a kilobyte for each, which was most of what filling a table cost this process.
type transaction struct {
	socket *netlink.Conn
	build  *nftables.Conn    // makes messages, and sends nothing; see library
	asked  bool              // it was asked for messages that are not in made yet
	made   []netlink.Message // what it made, between the begin and the end of a batch
	bulk   []byte            // messages with elements, which follow those
	count  int               // of messages in bulk
}

// newTransaction is an empty one that is to be sent over a socket.
func newTransaction(socket *netlink.Conn) (*transaction, error) {
	x := &transaction{socket: socket}
	return x, x.discard()
}

// discard throws away what was gathered.
func (x *transaction) discard() error {
	x.asked, x.made, x.bulk, x.count = false, nil, nil, 0
	var err error
	x.build, err = nftables.New(nftables.WithTestDial(x.take))
	return err
}

// take is what the library hands a batch to instead of the kernel.
func (x *transaction) take(m []netlink.Message) ([]netlink.Message, error) {
	if len(m) > 2 {
		x.made = m[1 : len(m)-1]
	}
	return nil, nil // no answers
}

// library is for who queues something about tables, sets, chains or rules with it at once.
func (x *transaction) library() *nftables.Conn {
	x.asked = true
	return x.build
}

// errLost says that the library did not hand over what was queued with it.
var errLost = errors.New("messages about the table were queued, and none is there to be sent")

// From linux/netfilter/nf_tables.h, where x/sys lacks it.
const destroyElements = 30 // NFT_MSG_DESTROYSETELEM

// size is what put will take for list, in bytes, or a little more.
func (x *transaction) size(table string, s set, list []element) int {
	if len(list) == 0 {
		return 0
	}
	messages := len(list)/chunk + 1
	return len(list)*list[0].size(s) + messages*(messageHead+len(table)+len(s.name))
}

// messageHead is what a message about elements takes at most besides them and its names, in bytes.
const messageHead = unix.NLMSG_HDRLEN + 4 + 3*unix.NLA_HDRLEN + 8

// put gathers messages of a kind with elements of a set.
func (x *transaction) put(kind uint16, table string, s set, list []element) {
	for len(list) > 0 {
		n := min(chunk, len(list))
		x.bulk = appendElements(x.bulk, kind, table, s, list[:n])
		x.count++
		list = list[n:]
	}
}

// send sends everything that was gathered, and forgets it. The kernel has done what it was
// told, or refused all of it, when this returns: without an error, or with its first one.
func (x *transaction) send() error {
	err := x.build.Flush()
	asked, made, bulk, count := x.asked, x.made, x.bulk, x.count
	x.asked, x.made, x.bulk, x.count = false, nil, nil, 0
	if err == nil && asked && len(made) == 0 {
		err = errLost
	}
	if err != nil || len(made)+count == 0 {
		return err
	}
	head := batchLimit(nil, unix.NFNL_MSG_BATCH_BEGIN)
	for _, m := range made {
		head = appendMessage(head, uint16(m.Header.Type), uint16(m.Header.Flags), m.Data)
	}
	end := batchLimit(nil, unix.NFNL_MSG_BATCH_END)
	if err := x.room(len(head)+len(bulk)+len(end), len(made)+count); err != nil {
		return err
	}
	if err := x.write([][]byte{head, bulk, end}); err != nil {
		return err
	}
	return x.refusal()
}

// room makes room for what is sent at once, and for as many errors as there may be.
func (x *transaction) room(bytes, messages int) error {
	out, err := x.socket.WriteBuffer()
	if err != nil {
		return fmt.Errorf("reading the size of the buffer for sending: %w", err)
	}
	if out < bytes+64 {
		if err := x.socket.SetWriteBuffer(bytes + 64); err != nil {
			return fmt.Errorf("enlarging the buffer for sending: %w", err)
		}
	}
	want := 1024 * max(8192, messages) // as nft does
	in, err := x.socket.ReadBuffer()
	if err != nil {
		return fmt.Errorf("reading the size of the buffer for answers: %w", err)
	}
	if in < want {
		if err := x.socket.SetReadBuffer(want); err != nil {
			return fmt.Errorf("enlarging the buffer for answers: %w", err)
		}
	}
	return nil
}

// write sends the pieces as one datagram.
func (x *transaction) write(pieces [][]byte) error {
	raw, err := x.socket.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		for {
			_, sent = unix.SendmsgBuffers(int(fd), pieces, nil, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}, 0)
			if sent != unix.EINTR {
				return sent != unix.EAGAIN
			}
		}
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("sendmsg", sent)
}

// refusal reads all answers and returns the first error. The kernel has answered before a
// transaction's sending returns: no answer means that it was done.
func (x *transaction) refusal() (first error) {
	for {
		waiting, err := x.answered()
		if err != nil {
			return fmt.Errorf("waiting for answers: %w", err)
		}
		if !waiting {
			return first
		}
		if _, err := x.socket.Receive(); err != nil && first == nil {
			first = err
		}
	}
}

// answered says whether there is something to read.
func (x *transaction) answered() (bool, error) {
	raw, err := x.socket.SyscallConn()
	if err != nil {
		return false, err
	}
	n := 0
	var failed error
	err = raw.Control(func(fd uintptr) {
		for {
			if n, failed = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); failed != unix.EINTR {
				return
			}
		}
	})
	if err != nil {
		return false, err
	}
	return n > 0, os.NewSyscallError("poll", failed)
}

// batchLimit appends the message that begins or ends a transaction.
func batchLimit(b []byte, kind uint16) []byte {
	return appendMessage(b, kind, uint16(netlink.Request), []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES})
}

// appendMessage appends a message (RFC 3549, section 2.3.2). Errors name none of them by its number.
func appendMessage(b []byte, kind, flags uint16, body []byte) []byte {
	start := len(b)
	b = append(beginMessage(b, kind, flags), body...)
	return endMessage(b, start)
}

func beginMessage(b []byte, kind, flags uint16) []byte {
	b = binary.NativeEndian.AppendUint32(b, 0) // its length, known at its end
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	return append(b, 0, 0, 0, 0, 0, 0, 0, 0) // number and sender
}

func endMessage(b []byte, start int) []byte {
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return pad(b)
}

// pad fills up to the four bytes that messages and attributes are aligned to.
func pad(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }

// appendAttribute appends the head of an attribute that holds n bytes.
func appendAttribute(b []byte, kind uint16, n int) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.NLA_HDRLEN+n))
	return binary.NativeEndian.AppendUint16(b, kind)
}

func appendText(b []byte, kind uint16, text string) []byte {
	b = append(appendAttribute(b, kind, len(text)+1), text...)
	return pad(append(b, 0))
}

// appendElements appends one message about elements of a set.
func appendElements(b []byte, kind uint16, table string, s set, list []element) []byte {
	start := len(b)
	b = beginMessage(b, unix.NFNL_SUBSYS_NFTABLES<<8|kind, uint16(netlink.Request|netlink.Create))
	b = append(b, unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0)
	b = appendText(b, unix.NFTA_SET_ELEM_LIST_TABLE, table)
	b = appendText(b, unix.NFTA_SET_ELEM_LIST_SET, s.name)
	size := 0
	for i := range list {
		size += list[i].size(s)
	}
	b = appendAttribute(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, size)
	for i := range list {
		b = list[i].append(b, s)
	}
	return endMessage(b, start)
}

// Sizes of an element's parts in bytes, with their heads.
const (
	timeoutSize = unix.NLA_HDRLEN + 8
	markSize    = 2*unix.NLA_HDRLEN + 4
)

// size is what e takes in a message about elements of s.
func (e *element) size(s set) int {
	n := 3*unix.NLA_HDRLEN + (int(e.length)+3)&^3
	if e.timeout != 0 && s.timeout != 0 {
		n += timeoutSize
	}
	if e.mark != 0 && s.data == "mark" {
		n += markSize
	}
	return n
}

// append appends e as one of the elements of s.
func (e *element) append(b []byte, s set) []byte {
	b = appendAttribute(b, unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, e.size(s)-unix.NLA_HDRLEN)
	b = appendAttribute(b, unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, unix.NLA_HDRLEN+(int(e.length)+3)&^3)
	b = appendAttribute(b, unix.NFTA_DATA_VALUE, int(e.length))
	b = append(b, e.key[:(e.length+3)&^3]...) // zeroes behind its length
	if e.timeout != 0 && s.timeout != 0 {
		b = appendAttribute(b, unix.NFTA_SET_ELEM_TIMEOUT, 8)
		b = binary.BigEndian.AppendUint64(b, uint64(e.timeout.Milliseconds()))
	}
	if e.mark != 0 && s.data == "mark" {
		b = appendAttribute(b, unix.NFTA_SET_ELEM_DATA|unix.NLA_F_NESTED, unix.NLA_HDRLEN+4)
		b = appendAttribute(b, unix.NFTA_DATA_VALUE, 4)
		b = binary.BigEndian.AppendUint32(b, uint32(e.mark))
	}
	return b
}
