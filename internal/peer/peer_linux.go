package peer

import "golang.org/x/sys/unix"

// ask reads unix(7), SO_PEERCRED.
func ask(fd int) (uint32, error) {
	who, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Nobody, err
	}
	return who.Uid, nil
}
