package gpt

// biosText is what a machine says that starts the disk in the old way. The system is made
// for UEFI: only there can the boot loader count attempts and go back by itself.
const biosText = "\r\nLazaret needs UEFI firmware, and this machine started it by BIOS.\r\n" +
	"Choose UEFI (OVMF, EFI, generation 2) in the settings of this machine.\r\n"

// biosCode prints what follows it up to a zero byte, on the screen (int 10h) and the first
// serial line (int 14h), and halts. It is 8086 code that firmware loads at 0x7c00:
//
//	00 xor ax,ax; mov ds,ax; mov ss,ax; mov sp,7c00h; cld
//	0a mov si,7c2eh
//	0d mov ax,00e3h; xor dx,dx; int 14h      ; 9600 8n1
//	14 lodsb; test al,al; jz 2ah
//	19 push ax; mov ah,0eh; mov bx,7; int 10h
//	21 pop ax; mov ah,1; xor dx,dx; int 14h
//	28 jmp 14h
//	2a sti; hlt; jmp 2bh
var biosCode = []byte{
	0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfc,
	0xbe, 0x2e, 0x7c,
	0xb8, 0xe3, 0x00, 0x31, 0xd2, 0xcd, 0x14,
	0xac, 0x84, 0xc0, 0x74, 0x11,
	0x50, 0xb4, 0x0e, 0xbb, 0x07, 0x00, 0xcd, 0x10,
	0x58, 0xb4, 0x01, 0x31, 0xd2, 0xcd, 0x14,
	0xeb, 0xea,
	0xfb, 0xf4, 0xeb, 0xfd,
}

// bios is the code and its text, for the first 440 bytes of the disk.
func bios() []byte { return append(append([]byte(nil), biosCode...), append([]byte(biosText), 0)...) }
