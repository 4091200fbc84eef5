# Beginnings of words, and files behind those that name one.
_PROGRAM_beginnings() {
    if compset -P '(docker-archive|oci|oci-archive|dir|tar|file|age):'; then
        _files
    elif [[ "$PREFIX" != *://* ]]; then
        compadd -S '' -- "$@"
        _files
    fi
}
(( $+functions[_PROGRAM_image] )) || _PROGRAM_image() { _PROGRAM_beginnings IMAGES }
(( $+functions[_PROGRAM_manifest] )) || _PROGRAM_manifest() { _PROGRAM_beginnings MANIFESTS }
(( $+functions[_PROGRAM_store] )) || _PROGRAM_store() { _PROGRAM_beginnings STORES }
(( $+functions[_PROGRAM_key] )) || _PROGRAM_key() { _PROGRAM_beginnings KEYS }

