package fat

import "fmt"

// boot makes the boot sector with the parameters of the volume.
func (v *volume) boot() []byte {
	b := make([]byte, sector)
	copy(b, "\xeb\x58\x90LAZARET ")
	le.PutUint16(b[11:], sector)
	b[13] = cluster / sector
	le.PutUint16(b[14:], reserved)
	b[16] = tables
	b[21] = 0xf8 // a fixed disk
	le.PutUint16(b[24:], 63)
	le.PutUint16(b[26:], 255)
	le.PutUint32(b[32:], uint32(v.sectors))
	le.PutUint32(b[36:], uint32(v.tableSectors))
	le.PutUint32(b[44:], uint32(v.root))
	le.PutUint16(b[48:], 1) // where info lies
	le.PutUint16(b[50:], 6) // where the copy lies
	b[64], b[66] = 0x80, 0x29
	le.PutUint32(b[67:], v.Serial)
	copy(b[71:], fmt.Sprintf("%-11s", v.Label))
	copy(b[82:], "FAT32   ")
	copy(b[90:], "\xf4\xeb\xfd") // whoever runs this halts
	return ending(b)
}

// info makes the sector that tells how much is free.
func (v *volume) info() []byte {
	b := make([]byte, sector)
	le.PutUint32(b, 0x41615252)
	le.PutUint32(b[484:], 0x61417272)
	le.PutUint32(b[488:], uint32(v.clusters-(v.next-2)))
	le.PutUint32(b[492:], uint32(v.next))
	return ending(b)
}

func ending(b []byte) []byte {
	b[510], b[511] = 0x55, 0xaa
	return b
}
