package peer

import "golang.org/x/sys/unix"

// ask reads unix(4), LOCAL_PEERCRED.
func ask(fd int) (uint32, error) {
	who, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return Nobody, err
	}
	return who.Uid, nil
}
