package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/test/local"
)

// Machine is where the figures were measured.
type Machine struct {
	Processors    int    `json:"processors"`
	ProcessorType string `json:"processor_type"`
	MemoryBytes   uint64 `json:"memory_bytes"`
	Kernel        string `json:"kernel"`
	// LoadBefore is the load average of the last minute when the benchmark
	// began: more than some tenths means that others used the machine.
	LoadBefore string `json:"load_before"`
}

// Versions are what was measured.
type Versions struct {
	Kubernetes   string `json:"kubernetes"`
	Client       string `json:"juicefs_client"`
	DriverCommit string `json:"driver_commit"`
}

func thisMachine() (Machine, error) {
	var (
		info unix.Sysinfo_t
		name unix.Utsname
	)
	if err := unix.Sysinfo(&info); err != nil {
		return Machine{}, fmt.Errorf("read memory of the machine: %w", err)
	}
	if err := unix.Uname(&name); err != nil {
		return Machine{}, fmt.Errorf("read name of the kernel: %w", err)
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return Machine{}, fmt.Errorf("read load: %w", err)
	}
	minute, _, _ := strings.Cut(string(load), " ")
	return Machine{
		Processors: runtime.NumCPU(), ProcessorType: processorType(), LoadBefore: minute,
		MemoryBytes: info.Totalram * uint64(info.Unit), Kernel: unix.ByteSliceToString(name.Release[:]),
	}, nil
}

func processorType() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if key, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (b *bench) versions(ctx context.Context) (Versions, error) {
	commit, err := exec.CommandContext(ctx, "git", "-C", b.tree.Root, "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return Versions{}, fmt.Errorf("name the commit: %w", err)
	}
	status, err := b.cluster.Status(ctx)
	if err != nil {
		return Versions{}, err
	}
	return Versions{
		Kubernetes: status.KubernetesVersion, Client: local.DefaultClient, DriverCommit: strings.TrimSpace(string(commit)),
	}, nil
}
