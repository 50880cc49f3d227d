package launch_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch"
)

// The test binary is also the programs that the tests start.
func TestMain(m *testing.M) {
	code, known := runProgram(os.Args[1:], os.Environ()) //nolint:forbidigo // this is main
	if !known {
		code = m.Run()
	}
	os.Exit(code)
}

// runProgram runs the program that arguments name, if any.
func runProgram(arguments, environment []string) (code int, known bool) {
	if len(arguments) == 0 {
		return 0, false
	}
	switch arguments[0] {
	case "fake-client":
		return fakeClient(arguments[1], arguments[2], environment), true
	case "fake-stage":
		return fakeStage(arguments[1:], environment), true
	case "jfs-launch":
		return launchProgram(arguments[1], environment), true
	default:
		return kernelProgram(arguments)
	}
}

// variable returns the value of name in environment.
func variable(environment []string, name string) string {
	for _, entry := range environment {
		if value, found := strings.CutPrefix(entry, name+"="); found {
			return value
		}
	}
	return ""
}

// launchProgram is jfs-launch serve.
func launchProgram(socket string, environment []string) int {
	code, err := launch.Serve(context.Background(), launch.Options{
		Socket: socket, TerminationLog: socket + ".termination", StateDirectory: "/tmp",
		Environment: environment, Output: os.Stdout, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// fakeStage prints its first argument to standard error, and exits with the
// second or sleeps.
func fakeStage(arguments, environment []string) int {
	_, _ = fmt.Fprintln(os.Stdout, "a line of output")
	for _, name := range arguments[2:] {
		content, err := os.ReadFile(name)
		fmt.Fprintf(os.Stderr, "%s, %v, %s\n", content, err, variable(environment, "TOKEN"))
	}
	fmt.Fprintln(os.Stderr, arguments[0])
	if arguments[1] == "sleep" {
		<-time.After(time.Hour)
	}
	code, _ := strconv.Atoi(arguments[1])
	return code
}

func goodSettings() []byte {
	data := make([]byte, 104)
	binary.NativeEndian.PutUint32(data, 104)
	binary.NativeEndian.PutUint32(data[4:], 26)
	return data
}

// fakeClient does what a JuiceFS client does around its descriptor. mode lists
// its faults; what it got is recorded below directory, its pid in the name.
func fakeClient(mode, directory string, environment []string) int {
	has := func(fault string) bool { return strings.Contains(mode, fault) }
	hup, term := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP)
	signal.Notify(term, unix.SIGTERM)
	fmt.Fprintln(os.Stderr, "fake client speaks")
	if has("die") {
		return 7
	}
	statePath, state := variable(environment, "_FUSE_STATE_PATH"), []byte("none")
	if statePath != "" {
		var err error
		if state, err = os.ReadFile(statePath); err != nil {
			return 8
		}
		_ = os.Rename(statePath, statePath+".bak")
	}
	record := strings.Join(environment, "\n") + "\nSTATE=" + string(state)
	name := filepath.Join(directory, strconv.Itoa(os.Getpid()))
	_ = os.WriteFile(name+".tmp", []byte(record), 0o600)
	socket := variable(environment, "_FUSE_FD_COMM")
	descriptor, err := exchange(socket, nil, -1)
	if err != nil {
		return 9
	}
	answer := goodSettings()
	if has("bad-settings") {
		answer = append([]byte("FUSE"), make([]byte, 100)...)
	}
	_ = os.Rename(name+".tmp", name)
	if _, err := exchange(socket, answer, descriptor); err != nil {
		return 10
	}
	gone := make(chan struct{})
	go func() { _, _ = unix.Read(descriptor, make([]byte, 1)); close(gone) }()
	if has("crash") {
		return 3
	}
	for {
		select {
		case <-hup:
			if has("busy") {
				continue
			}
			if !has("no-state") {
				path := filepath.Join(directory, fmt.Sprintf("state%d.json", os.Getppid()))
				_ = os.WriteFile(path, []byte("state of "+strconv.Itoa(os.Getpid())), 0o600)
			}
			return 1
		case <-term:
			if !has("stubborn") {
				return 0
			}
		case <-gone:
			return 0
		}
	}
}

// exchange gets the descriptor and, with settings, gives it back.
func exchange(socket string, settings []byte, descriptor int) (int, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return -1, err
	}
	defer func() { _ = conn.Close() }()
	control := make([]byte, unix.CmsgSpace(8))
	_, count, _, _, err := conn.ReadMsgUnix(make([]byte, 120), control)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:count])
	if err != nil {
		return -1, err
	}
	descriptors, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	_ = unix.Close(descriptors[0])
	if settings == nil {
		return descriptors[1], nil
	}
	_ = unix.Close(descriptors[1])
	if _, _, err := conn.WriteMsgUnix(settings, unix.UnixRights(descriptor), nil); err != nil {
		return -1, err
	}
	_, err = io.Copy(io.Discard, conn)
	return descriptor, err
}
