package devcluster

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// mountEntry is a line of /proc/PID/mountinfo, as far as it is used here.
type mountEntry struct {
	major, minor uint32
	target       string
	fsType       string
	superOptions string
}

func (m mountEntry) isFuse() bool {
	return m.fsType == "fuse" || m.fsType == "fuseblk" || strings.HasPrefix(m.fsType, "fuse.")
}

// readMounts lists the mounts of a process or thread, in the order in which
// they were made. It never touches a mount point.
func readMounts(path string) ([]mountEntry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer f.Close()
	return parseMounts(f)
}

func parseMounts(r io.Reader) ([]mountEntry, error) {
	var mounts []mountEntry
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 64<<10), 1<<20)
	for scanner.Scan() {
		m, err := parseMount(scanner.Text())
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, m)
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return mounts, nil
}

// parseMount follows proc_pid_mountinfo(5).
func parseMount(line string) (mountEntry, error) {
	left, right, ok := strings.Cut(line, " - ")
	fields, tail := strings.Fields(left), strings.Fields(right)
	if !ok || len(fields) < 6 || len(tail) < 2 {
		return mountEntry{}, fmt.Errorf("mountinfo line %q has an unknown form", line)
	}
	m := mountEntry{target: unescapeOctal(fields[4]), fsType: tail[0]}
	if _, err := fmt.Sscanf(fields[2], "%d:%d", &m.major, &m.minor); err != nil {
		return mountEntry{}, fmt.Errorf("device of mountinfo line %q: %w", line, err)
	}
	if len(tail) > 2 {
		m.superOptions = tail[2]
	}
	return m, nil
}

// unescapeOctal undoes the \040 escapes of mountinfo.
func unescapeOctal(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
