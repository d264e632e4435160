// Package ext4 makes the file system of the data partition from a template that mke2fs
// made, lets the kernel grow it to its device, and mounts it. Its checksums hold for any
// UUID (metadata_csum_seed), so that each machine has its own.
package ext4

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"lazaret/appliance/disk/block"
)

// template is the blocks of a file system of templateBlocks that are not zero: each four
// bytes of number, little-endian, and its content, compressed. See TestTemplate.
//
//go:embed template.gz
var template []byte

const (
	blockSize      = 4096
	templateBlocks = 16384 // 64 MiB
	writtenBlocks  = 6144  // beyond them, a new file system has nothing
	superOffset    = 1024
	superSize      = 1024
)

// Least is the smallest device, in bytes.
const Least = templateBlocks * blockSize

// ErrNone reports a device without an ext4 file system.
var ErrNone = errors.New("no ext4 file system")

// Super is what a superblock says.
type Super struct {
	UUID   [16]byte
	Size   int64  // bytes
	Errors uint32 // that the kernel met since the file system was checked
}

// Make writes an empty file system of 64 MiB, for the kernel to grow once it is mounted.
func Make(d block.Device, now time.Time) error {
	if d.Size() < Least {
		return fmt.Errorf("making file system: %d bytes are too few", d.Size())
	}
	image, err := unpack(template)
	if err != nil {
		return fmt.Errorf("reading template of file system: %w", err)
	}
	personal(image[superOffset:superOffset+superSize], now)
	const part = 4 << 20
	for at := 0; at < len(image); at += part {
		if _, err := d.WriteAt(image[at:min(at+part, len(image))], int64(at)); err != nil {
			return fmt.Errorf("writing file system: %w", err)
		}
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("writing file system: %w", err)
	}
	return nil
}

// unpack is the part of the template that is written.
func unpack(packed []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	image := make([]byte, writtenBlocks*blockSize)
	for {
		var number [4]byte
		if _, err := io.ReadFull(z, number[:]); err == io.EOF {
			return image, nil
		} else if err != nil {
			return nil, err
		}
		n := binary.LittleEndian.Uint32(number[:])
		if n >= writtenBlocks {
			return nil, fmt.Errorf("block %d", n)
		}
		if _, err := io.ReadFull(z, image[n*blockSize:(n+1)*blockSize]); err != nil {
			return nil, err
		}
	}
}

// personal gives a superblock its own UUID, hash seed and times.
func personal(s []byte, now time.Time) {
	le := binary.LittleEndian
	for _, at := range []int{0x68, 0xec} {
		id := s[at : at+16]
		rand.Read(id)
		id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	}
	for _, at := range []int{0x30, 0x40, 0x108} { // written, checked, made
		le.PutUint32(s[at:], uint32(now.Unix()))
	}
	le.PutUint32(s[0x3fc:], sum(s))
}

// sum is a superblock's checksum: CRC-32C without the last inversion.
func sum(s []byte) uint32 { return ^crc32.Checksum(s[:0x3fc], crc32.MakeTable(crc32.Castagnoli)) }

// Read reads the superblock. ErrNone where there is none that is whole.
func Read(d io.ReaderAt) (Super, error) {
	s, err := block.Read(d, superOffset, superSize)
	if err != nil {
		return Super{}, err
	}
	le := binary.LittleEndian
	if le.Uint16(s[0x38:]) != 0xef53 {
		return Super{}, ErrNone
	}
	if le.Uint32(s[0x64:])&0x400 != 0 && sum(s) != le.Uint32(s[0x3fc:]) {
		return Super{}, fmt.Errorf("%w that is whole: its superblock's checksum is wrong", ErrNone)
	}
	log, blocks := le.Uint32(s[0x18:]), uint64(le.Uint32(s[4:]))|uint64(le.Uint32(s[0x150:]))<<32
	if log > 6 || blocks > 1<<40 {
		return Super{}, fmt.Errorf("%w that is whole", ErrNone)
	}
	return Super{UUID: [16]byte(s[0x68:0x78]), Size: int64(blocks << (10 + log)), Errors: le.Uint32(s[0x194:])}, nil
}
