package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What this program does instead of testing, as its only argument.
const (
	// filterStage becomes tryStage with the filter.
	filterStage = "filter"
	// tryStage tries what is refused.
	tryStage = "try"
)

func TestMain(m *testing.M) {
	switch os.Args[len(os.Args)-1] {
	case filterStage:
		_, _ = fmt.Fprintln(os.Stdout, filterSelf())
		os.Exit(1)
	case tryStage:
		tryCalls(os.Stdout)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// filterSelf becomes a program with the filter, as Main does.
func filterSelf() error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := filterCalls(); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", []string{os.Args[0], tryStage}, nil)
}

// tryCalls writes each call's name and error.
func tryCalls(output io.Writer) {
	_, _, clone3 := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
	_, _, ptrace := unix.RawSyscall(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0)
	isolated := exec.Command("/proc/self/exe")
	isolated.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
	plain := exec.Command("/bin/true")
	for _, call := range []struct {
		name string
		err  error
	}{
		{"unshare", unix.Unshare(unix.CLONE_NEWUSER)},
		{"mount", unix.Mount("tmpfs", "/nonexistent", "tmpfs", 0, "")},
		{"clone3", clone3},
		{"ptrace", ptrace},
		{"clone of a user namespace", isolated.Start()},
		{"clone", plain.Run()},
	} {
		number := syscall.Errno(0)
		_ = errors.As(call.err, &number)
		_, _ = fmt.Fprintf(output, "%s: %s\n", call.name, unix.ErrnoName(number))
	}
}

func TestACallIsRefused(t *testing.T) {
	output, err := exec.CommandContext(t.Context(), "/proc/self/exe", filterStage).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	want := "unshare: EPERM\nmount: EPERM\nclone3: ENOSYS\nptrace: EPERM\nclone of a user namespace: EPERM\nclone: \n"
	if got := string(output); !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A program may make the calls of another mode of the processor, whose numbers
// mean something else.
func TestCallsOfAnotherModeAreRefused(t *testing.T) {
	policy, err := callPolicy()
	if err != nil {
		t.Fatal(err)
	}
	instructions, err := policy.Assemble()
	if err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		t.Fatal(err)
	}
	native, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[arch.AuditArch]seccomp.Action{
		native.ID:    seccomp.ActionAllow,
		arch.I386.ID: seccomp.ActionErrno | seccomp.Action(unix.EPERM),
		arch.ARM.ID:  seccomp.ActionErrno | seccomp.Action(unix.EPERM),
	} {
		call := binary.BigEndian.AppendUint32(nil, uint32(native.SyscallNames["read"]))
		call = binary.BigEndian.AppendUint32(call, uint32(mode))
		got, err := vm.Run(append(call, make([]byte, 56)...))
		if err != nil || seccomp.Action(got) != want {
			t.Errorf("read of mode %#x: %#x, want %#x, %v", mode, got, want, err)
		}
	}
}
