package confine

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// calls are what a process may ask the kernel. Whatever is not named fails with EPERM, and
// the kernel's log says so.
type calls struct {
	allow []uint32            // with any arguments
	given map[uint32][]clause // when one clause holds
	kill  []uint32            // nothing honest makes these: the process ends
}

// clause holds when all its conditions do.
type clause []condition

// condition holds when the argument, of which only the lower 32 bits count, is one of the
// values once what is not in mask is taken away.
type condition struct {
	arg    int
	mask   uint32
	values []uint32
}

// is wants an argument to be one of the values.
func is(arg int, values ...uint32) condition { return condition{arg, ^uint32(0), values} }

// has wants all bits to be set in an argument; without wants none of them to be.
func has(arg int, bits uint32) condition     { return condition{arg, bits, []uint32{bits}} }
func without(arg int, bits uint32) condition { return condition{arg, bits, []uint32{0}} }

// Where a filter finds its facts: struct seccomp_data of linux/seccomp.h, on machines that
// put the lower half first, which amd64 and arm64 do.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// refused is what calls get that are not named.
const refused = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)

// program is the filter. The kernel remembers for each call that it allows with any
// arguments that it need not run the filter for it again.
func (c calls) program(pid uint32) ([]bpf.Instruction, error) {
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS},
		bpf.LoadAbsolute{Off: offNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: 1 << 30, SkipTrue: 1}, // above lies the x32 form of the same calls
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS},
	}
	for _, list := range []struct {
		numbers []uint32
		verdict uint32
	}{{c.allow, unix.SECCOMP_RET_ALLOW}, {c.kill, unix.SECCOMP_RET_KILL_PROCESS}} {
		for _, n := range list.numbers {
			p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: n, SkipTrue: 1}, bpf.RetConstant{Val: list.verdict})
		}
	}
	var numbers []uint32
	for n := range c.given {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		var body []bpf.Instruction
		for _, cl := range c.given[n] {
			body = append(body, cl.test(pid)...)
		}
		body = append(body, bpf.RetConstant{Val: refused})
		if len(body) > 255 {
			return nil, fmt.Errorf("the conditions of call %d are too many", n)
		}
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: n, SkipTrue: uint8(len(body))})
		p = append(p, body...)
	}
	return append(p, bpf.RetConstant{Val: refused}), nil
}

// ownPID stands for the process's own number in conditions.
const ownPID = ^uint32(0)

// test allows the call if the clause holds, and goes on behind itself if it does not.
func (cl clause) test(pid uint32) []bpf.Instruction {
	body := []bpf.Instruction{bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}}
	for _, c := range slices.Backward(cl) {
		head := []bpf.Instruction{bpf.LoadAbsolute{Off: uint32(offArgs + 8*c.arg), Size: 4}}
		if c.mask != ^uint32(0) {
			head = append(head, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: c.mask})
		}
		for i, v := range c.values {
			if v == ownPID {
				v = pid
			}
			j := bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: uint8(len(c.values) - 1 - i)}
			if i == len(c.values)-1 {
				j.SkipFalse = uint8(len(body))
			}
			head = append(head, j)
		}
		body = append(head, body...)
	}
	return body
}

// install has the kernel judge every call of every thread by the filter, from now on.
func (c calls) install() error {
	p, err := c.program(uint32(unix.Getpid()))
	if err != nil {
		return err
	}
	raw, err := bpf.Assemble(p)
	if err != nil {
		return fmt.Errorf("assembling the filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	flags := uintptr(unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG)
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("installing the filter of %d instructions: %w", len(filter), errno)
	}
	if thread != 0 {
		return errors.New("installing the filter: a thread has another one")
	}
	return nil
}
