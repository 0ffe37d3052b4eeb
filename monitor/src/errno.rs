//! What a refused hypercall of the guest gives (Xen `public/errno.h`).

macro_rules! errnos {
    ($($name:ident = $number:literal,)*) => {
        /// The error, by Xen's names and numbers.
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(i64)]
        pub enum Errno { $($name = $number,)* }
    };
}

errnos! {
    EPERM = 1,
    ENOENT = 2,
    ESRCH = 3,
    E2BIG = 7,
    ENOMEM = 12,
    EFAULT = 14,
    EBUSY = 16,
    EEXIST = 17,
    EINVAL = 22,
    ENOSPC = 28,
    ENOSYS = 38,
    ETIME = 62,
    ENODATA = 61,
    EOPNOTSUPP = 95,
}

impl From<crate::walk::BadPointer> for Errno {
    fn from(_: crate::walk::BadPointer) -> Errno {
        Errno::EFAULT
    }
}

impl From<protocol::error::Error> for Errno {
    fn from(error: protocol::error::Error) -> Errno {
        use protocol::error::Error;
        match error {
            Error::NoMemory => Errno::ENOMEM,
            Error::Busy => Errno::EBUSY,
            Error::Exists => Errno::EEXIST,
            _ => Errno::EINVAL,
        }
    }
}
