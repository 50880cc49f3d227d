package clientfd

import (
	"encoding/binary"
)

// What the client gives back with the descriptor is the kernel's FUSE_INIT
// request as it stands in memory: fuse_in_header, then fuse_init_in. 56 bytes
// since client 1.2, 104 bytes since 1.3.
const (
	minSettings = 56
	maxSettings = 104
	opcodeInit  = 26
)

// ValidSettings says whether data is a FUSE_INIT request. In a part of the
// first starts the client gives back bytes from before it read that request;
// offered to its successor they would make it misread the connection.
func ValidSettings(data []byte) bool {
	return len(data) >= minSettings && len(data) <= maxSettings &&
		int(binary.NativeEndian.Uint32(data)) == len(data) &&
		binary.NativeEndian.Uint32(data[4:]) == opcodeInit
}
