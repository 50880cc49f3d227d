package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/test/local"
)

// service is a long-running process of the driver. The kernel cuts names of
// processes off after 15 bytes.
type service struct{ name, app, process string }

func services() []service {
	return []service{
		{"node", nodeApp, "juicefs-csi-nod"},
		{"mountmgr", "juicefs-csi-mountmgr", "juicefs-mountmg"},
		{"fdvault", "juicefs-csi-mountmgr", "juicefs-fdvault"},
		{"controller", "juicefs-csi-controller", "juicefs-csi-con"},
		{"dashboard", "juicefs-csi-dashboard", "juicefs-csi-das"},
	}
}

// Names of the processes of a mount pod.
const (
	launcherProcess = "jfs-launch"
	clientProcess   = "mount.juicefs"
)

// process is a process of a pod, as the machine sees it. Memory is in bytes.
type process struct {
	pid            int
	name           string
	rss, anonymous int64
}

// memory records what the driver's processes take, with so many volumes
// mounted on the node.
func (b *bench) memory(ctx context.Context, mounts int) error {
	if err := wait(ctx, settling); err != nil {
		return err
	}
	suffix := fmt.Sprintf(".%d_mounts", mounts)
	for _, service := range services() {
		pod, err := b.podOf(ctx, service.app)
		if err != nil {
			return err
		}
		found, err := processesOf(pod, service.process)
		if err != nil {
			return err
		}
		if len(found) != 1 {
			return fmt.Errorf("%d processes of %s in pod %s", len(found), service.name, pod.Name)
		}
		b.addMemory("memory."+service.name+suffix, found)
	}
	if mounts == 0 {
		return nil
	}
	return b.mountMemory(ctx, suffix)
}

// mountMemory is what a mount pod takes.
func (b *bench) mountMemory(ctx context.Context, suffix string) error {
	pods, err := b.kube.CoreV1().Pods(local.Namespace).List(ctx, metav1.ListOptions{LabelSelector: mountPods})
	if err != nil {
		return fmt.Errorf("list mount pods: %w", err)
	}
	if len(pods.Items) == 0 {
		return nil // Clients are processes of the node.
	}
	var launchers, clients []process
	for i := range pods.Items {
		found, err := processesOf(&pods.Items[i], launcherProcess)
		if err != nil {
			return err
		}
		launchers = append(launchers, found...)
		if found, err = processesOf(&pods.Items[i], clientProcess); err != nil {
			return err
		}
		client := process{name: clientProcess}
		for _, each := range found {
			client.rss += each.rss
			client.anonymous += each.anonymous
		}
		clients = append(clients, client)
	}
	b.addMemory("memory.jfs_launch"+suffix, launchers)
	b.addMemory("memory.client"+suffix, clients)
	return nil
}

// addMemory records the median.
func (b *bench) addMemory(name string, processes []process) {
	var rss, anonymous []int64
	for _, each := range processes {
		rss, anonymous = append(rss, each.rss), append(anonymous, each.anonymous)
	}
	b.add(name+".rss", float64(percentile(rss, 50))/(1<<20), "MiB", len(rss))
	b.add(name+".anonymous", float64(percentile(anonymous, 50))/(1<<20), "MiB", len(anonymous))
}

// processesOf finds the processes of a pod by its cgroup, and by name.
func processesOf(pod *corev1.Pod, name string) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", entry.Name())
		cgroup, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil || !strings.Contains(string(cgroup), string(pod.UID)) {
			continue
		}
		each, err := readProcess(filepath.Join(dir, "status"))
		if err == nil && each.name == name {
			each.pid = pid
			found = append(found, each)
		}
	}
	return found, nil
}

// readProcess reads /proc/PID/status; proc(5).
func readProcess(status string) (process, error) {
	file, err := os.Open(status)
	if err != nil {
		return process{}, err
	}
	defer func() { _ = file.Close() }()
	var p process
	for lines := bufio.NewScanner(file); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Name":
			p.name = value
		case "State":
			if strings.HasPrefix(value, "Z") {
				return process{}, errors.New("it has ended")
			}
		case "VmRSS":
			p.rss, err = kilobytes(value)
		case "RssAnon":
			p.anonymous, err = kilobytes(value)
		}
		if err != nil {
			return process{}, err
		}
	}
	return p, nil
}

func kilobytes(value string) (int64, error) {
	number, err := strconv.ParseInt(strings.TrimSuffix(value, " kB"), 10, 64)
	return number << 10, err
}
