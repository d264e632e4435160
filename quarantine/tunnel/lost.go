package tunnel

import (
	"errors"
	"fmt"
)

// Lost is closed when the interface was deleted or moved away under the link, or its
// userspace half ended by itself; not by Close or Remove. From then on every call but
// Close and Remove fails with ErrLost, and nothing passes. What is left to do is Close,
// which frees the port, and Open, under the same name if wanted.
func (l *Link) Lost() <-chan struct{} { return l.lost }

// gone returns ErrLost once the interface is gone, whether or not Lost says so yet.
func (l *Link) gone() error {
	select {
	case <-l.lost:
	default:
		if l.back.present() {
			return nil
		}
	}
	return fmt.Errorf("link %s: %w", l.name, ErrLost)
}

// Close lets go of the link. A kernel link stays as it is, with its peers; a
// userspace one ends. Closing again does nothing.
func (l *Link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.close()
}

// Remove ends the link and removes its interface, of either kind. After a loss there is
// none, and an interface that has its name by now stays.
func (l *Link) Remove() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.gone() != nil {
		return l.close()
	}
	l.stopWatching() // what follows is no loss
	return errors.Join(l.network.remove(), l.close())
}

func (l *Link) close() error {
	if l.closed {
		return nil
	}
	l.closed = true
	l.stopWatching()
	return l.back.close()
}

// stopWatching returns when nothing can close lost any more. The caller holds mu.
func (l *Link) stopWatching() {
	select {
	case <-l.closing:
	default:
		close(l.closing)
	}
	<-l.watched
}
