// Package packaging holds what a Debian package needs besides the programs: units, users,
// directories, kernel modules and maintainer scripts.
package packaging

import "embed"

// Files are the files of this directory, by name.
//
//go:embed *.service *.conf postinst prerm postrm
var Files embed.FS
