package launch_test

import (
	"bytes"
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
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "fake-client":
			os.Exit(fakeClient(os.Args[2], os.Args[3]))
		case "fake-stage":
			os.Exit(fakeStage(os.Args[2:]))
		case "jfs-launch":
			os.Exit(launchProgram(os.Args[2]))
		}
		if code, known := kernelProgram(os.Args[1:]); known {
			os.Exit(code)
		}
	}
	os.Exit(m.Run())
}

// launchProgram is jfs-launch serve.
func launchProgram(socket string) int {
	code, err := launch.Serve(context.Background(), launch.Options{
		Socket: socket, TerminationLog: socket + ".termination", StateDirectory: "/tmp",
		Environment: os.Environ(), Output: os.Stdout, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// fakeStage prints its first argument to standard error, and exits with the
// second or sleeps.
func fakeStage(arguments []string) int {
	fmt.Println("a line of output")
	for _, name := range arguments[2:] {
		content, err := os.ReadFile(name)
		fmt.Fprintf(os.Stderr, "%s, %v, %s\n", content, err, os.Getenv("TOKEN"))
	}
	fmt.Fprintln(os.Stderr, arguments[0])
	if arguments[1] == "sleep" {
		time.Sleep(time.Hour)
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
func fakeClient(mode, directory string) int {
	has := func(fault string) bool { return strings.Contains(mode, fault) }
	hup, term := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP)
	signal.Notify(term, unix.SIGTERM)
	fmt.Fprintln(os.Stderr, "fake client speaks")
	if has("die") {
		return 7
	}
	statePath, state := os.Getenv("_FUSE_STATE_PATH"), []byte("none")
	if statePath != "" {
		var err error
		if state, err = os.ReadFile(statePath); err != nil {
			return 8
		}
		os.Rename(statePath, statePath+".bak")
	}
	record := strings.Join(os.Environ(), "\n") + "\nSTATE=" + string(state)
	name := filepath.Join(directory, strconv.Itoa(os.Getpid()))
	os.WriteFile(name+".tmp", []byte(record), 0o600)
	descriptor := exchange(nil, -1)
	answer := goodSettings()
	if has("bad-settings") {
		answer = append([]byte("FUSE"), make([]byte, 100)...)
	}
	os.Rename(name+".tmp", name)
	exchange(answer, descriptor)
	gone := make(chan struct{})
	go func() { unix.Read(descriptor, make([]byte, 1)); close(gone) }()
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
				os.WriteFile(filepath.Join(directory, fmt.Sprintf("state%d.json", os.Getppid())), []byte("state of "+strconv.Itoa(os.Getpid())), 0o644)
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
func exchange(settings []byte, descriptor int) int {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: os.Getenv("_FUSE_FD_COMM"), Net: "unix"})
	if err != nil {
		os.Exit(9)
	}
	defer conn.Close()
	control := make([]byte, unix.CmsgSpace(8))
	_, count, _, _, err := conn.ReadMsgUnix(make([]byte, 120), control)
	if err != nil {
		os.Exit(10)
	}
	messages, _ := unix.ParseSocketControlMessage(control[:count])
	descriptors, _ := unix.ParseUnixRights(&messages[0])
	unix.Close(descriptors[0])
	if settings == nil {
		return descriptors[1]
	}
	unix.Close(descriptors[1])
	conn.WriteMsgUnix(settings, unix.UnixRights(descriptor), nil)
	io.Copy(new(bytes.Buffer), conn)
	return descriptor
}
